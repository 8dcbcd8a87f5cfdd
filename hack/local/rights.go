package local

import (
	"context"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
)

// AwaitRights waits until the API server lets user do in namespace what rules say: it reads roles and bindings by a watch, which lags.
func AwaitRights(ctx context.Context, admin kubernetes.Interface, user, namespace string, rules ...rbacv1.PolicyRule) error {
	for _, r := range rules {
		if len(r.Resources) == 0 { // URLs that are no resources are no matter of a namespace
			continue
		}
		what := &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: r.Verbs[0], Group: r.APIGroups[0], Resource: r.Resources[0]}
		if len(r.ResourceNames) > 0 {
			what.Name = r.ResourceNames[0]
		}
		err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, 10*time.Second, true, func(ctx context.Context) (bool, error) {
			review, err := admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
				Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: what},
			}, metav1.CreateOptions{})
			return err == nil && review.Status.Allowed, err
		})
		if err != nil {
			return fmt.Errorf("wait until %s may %s %s in %s: %w", user, what.Verb, what.Resource, namespace, err)
		}
	}
	return nil
}
