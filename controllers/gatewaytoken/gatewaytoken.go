// Package gatewaytoken gives the gateway beside the manager its API token. A Pod has one service account, so a sidecar would get the
// manager's; instead the manager asks for a token of the gateway's account and writes it into a volume that the gateway reads.
package gatewaytoken

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/go-logr/logr"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// bindingSecret is empty. A token that is bound to it dies when it is deleted: with it a person revokes all at once.
	bindingSecret = "rollcall-gateway-token-binding"
	lifetime      = time.Hour
	minRetry      = time.Second
	maxRetry      = time.Minute
	// fileMode lets the gateway read it through the volume's group.
	fileMode = 0o640
)

// Writer keeps the token in File fresh, in every replica and not only in the leader: each has a gateway beside it.
type Writer struct {
	// Client is not cached.
	Client    client.Client
	Namespace string
	// Account is the name of the gateway's service account.
	Account string
	File    string
	// Refresh is how often a new token is asked for. It is good for an hour.
	Refresh time.Duration
	Log     logr.Logger
}

// NeedLeaderElection tells the manager that every replica runs it.
func (*Writer) NeedLeaderElection() bool { return false }

// Start writes tokens until ctx ends.
func (w *Writer) Start(ctx context.Context) error {
	retry := minRetry
	for {
		wait := w.Refresh
		if err := w.write(ctx); err != nil && ctx.Err() == nil {
			w.Log.Error(err, "The gateway got no new API token; it goes on with the one it has, if any.", "retry", retry.String())
			wait, retry = retry, min(2*retry, maxRetry)
		} else {
			retry = minRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (w *Writer) write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxRetry)
	defer cancel()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: bindingSecret}, Type: corev1.SecretTypeOpaque}
	if err := w.Client.Create(ctx, secret); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create Secret %s: %w", bindingSecret, err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: w.Account}}
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: ptr.To(int64(lifetime.Seconds())),
		// Without a UID the API server binds it to the Secret of that name as it is now, which nobody here may read.
		BoundObjectRef: &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: bindingSecret},
	}}
	if err := w.Client.SubResource("token").Create(ctx, account, request); err != nil {
		return fmt.Errorf("request a token for %s: %w", w.Account, err)
	}
	return replace(w.File, []byte(request.Status.Token))
}

// replace writes a file so that a reader sees the old content or the new, and nothing between.
func replace(path string, content []byte) error {
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return fmt.Errorf("write the gateway's token: %w", err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return fmt.Errorf("write the gateway's token: %w", err)
	}
	return nil
}
