package rogue

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/action"
)

// rewrite changes the status of an action, as it is now.
func (r *Rogue) rewrite(ctx context.Context, namespace, name, what string, change func(*v1alpha1.EndpointAction)) (Attempt, error) {
	act, err := r.action(ctx, namespace, name)
	if err != nil {
		return Attempt{}, err
	}
	change(act)
	return attempt(what, r.api.Status().Update(ctx, act)), nil
}

// rewriteAction changes what the manager has written of an action, one thing after the other.
func (r *Rogue) rewriteAction(ctx context.Context, a Ask) (done []Attempt, err error) {
	other, err := r.endpoint(ctx, a.Namespace, a.Other)
	if err != nil {
		return nil, err
	}
	for _, try := range []struct {
		what   string
		change func(*v1alpha1.EndpointAction)
	}{
		{"who it is for", func(x *v1alpha1.EndpointAction) { x.Status.Admission.IdentityID = other.Status.Identity.ID }},
		{"the order", func(x *v1alpha1.EndpointAction) { x.Status.Admission.Order.Payload = []byte("{}") }},
		{"until when", func(x *v1alpha1.EndpointAction) {
			x.Status.Admission.StartingDeadline = metav1.NewTime(x.Status.Admission.StartingDeadline.AddDate(1, 0, 0))
		}},
		{"that it was admitted", func(x *v1alpha1.EndpointAction) { x.Status.Admission = nil }},
		{"that it is to be cancelled", func(x *v1alpha1.EndpointAction) { x.Status.Cancellation = &x.Status.Admission.Order }},
		{"that it has children", func(x *v1alpha1.EndpointAction) { x.Status.Children = &v1alpha1.ActionChildren{Total: 1, Succeeded: 1} }},
	} {
		did, err := r.rewrite(ctx, a.Namespace, a.Action, try.what, try.change)
		if err != nil {
			return nil, err
		}
		done = append(done, did)
	}
	return done, nil
}

// rewriteEndpoint changes what the manager has written of an endpoint: who it is, what it obeys, how it is.
func (r *Rogue) rewriteEndpoint(ctx context.Context, a Ask) (done []Attempt, err error) {
	ep, err := r.endpoint(ctx, a.Namespace, a.Endpoint)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(r.keys.agent.Public())
	if err != nil {
		return nil, err
	}
	for _, try := range []struct {
		what, path string
		value      any
	}{
		{"its identity", "/identity/id", "00000000-0000-4000-8000-000000000000"},
		{"its key", "/identity/publicKeys", [][]byte{spki}},
		{"its policy", "/policy/name", a.Policy},
		{"its assignment", "/policy/assignment/payload", []byte("{}")},
		{"its conditions", "/conditions/0/status", "Unknown"},
		{"its summary", "/summary", "Online, honestly"},
	} {
		patch, err := json.Marshal([]map[string]any{{"op": "replace", "path": "/status" + try.path, "value": try.value}})
		if err != nil {
			return nil, err
		}
		done = append(done, attempt(try.what, r.api.Status().Patch(ctx, ep.DeepCopy(), client.RawPatch(types.JSONPatchType, patch))))
	}
	return done, nil
}

// reopen takes back an end, and that an action was sent.
func (r *Rogue) reopen(ctx context.Context, a Ask) (done []Attempt, err error) {
	open, err := r.action(ctx, a.Namespace, a.OtherAction)
	if err != nil {
		return nil, err
	}
	pending := *open.Status.DeepCopy() // how an action looks that was not sent
	for _, try := range []struct {
		what, name string
		change     func(*v1alpha1.EndpointAction)
	}{
		{"from its end to Pending", a.Action, func(x *v1alpha1.EndpointAction) {
			admission := x.Status.Admission
			x.Status = *pending.DeepCopy()
			x.Status.Admission = admission
		}},
		{"from its end to Sent", a.Action, func(x *v1alpha1.EndpointAction) {
			delivery := x.Status.Delivery
			x.Status.Phase, x.Status.Conditions = v1alpha1.ActionSent, pending.Conditions
			x.Status.Delivery, x.Status.FinishTime, x.Status.Result = delivery, nil, nil
		}},
		{"from one end to another", a.Action, func(x *v1alpha1.EndpointAction) { x.Status.Phase = v1alpha1.ActionExpired }},
		{"its result", a.Action, func(x *v1alpha1.EndpointAction) { x.Status.Result.Message = "something else" }},
	} {
		did, err := r.rewrite(ctx, a.Namespace, try.name, try.what, try.change)
		if err != nil {
			return nil, err
		}
		done = append(done, did)
	}
	sent, err := r.send(ctx, open)
	if err != nil {
		return nil, fmt.Errorf("write that an action was sent, which a gateway may: %w", err)
	}
	sent.Status = pending
	return append(done, attempt("from Sent to Pending", r.api.Status().Update(ctx, sent))), nil
}

// secrets reads the fleet's keys, a token, and everybody's.
func (r *Rogue) secrets(ctx context.Context, a Ask) (done []Attempt, _ error) {
	for _, at := range []client.ObjectKey{
		{Namespace: r.Namespace, Name: "rollcall-root-key"},
		{Namespace: r.Namespace, Name: "rollcall-order-key"},
		{Namespace: r.Namespace, Name: "rollcall-agent-ca"},
		{Namespace: a.Namespace, Name: a.Token + "-token"},
	} {
		done = append(done, attempt("get "+at.String(), r.api.Get(ctx, at, &corev1.Secret{})))
	}
	return append(done, attempt("list all", r.api.List(ctx, &corev1.SecretList{}))), nil
}

// objects does to our kinds what only people and the manager do.
func (r *Rogue) objects(ctx context.Context, a Ask) (done []Attempt, err error) {
	ep, act, err := r.both(ctx, a)
	if err != nil {
		return nil, err
	}
	own := metav1.ObjectMeta{Namespace: a.Namespace, Name: "rogue"}
	for _, o := range []client.Object{
		&v1alpha1.Endpoint{ObjectMeta: own},
		&v1alpha1.EndpointAction{ObjectMeta: own, Spec: v1alpha1.EndpointActionSpec{Type: v1alpha1.PerformHeartbeat, EndpointName: v1alpha1.LocalName(a.Endpoint)}},
		&v1alpha1.EndpointPolicy{ObjectMeta: own},
		&v1alpha1.EnrollmentToken{ObjectMeta: own},
	} {
		done = append(done, attempt(fmt.Sprintf("create %T", o), r.api.Create(ctx, o)))
	}
	patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"site":"elsewhere"}},"spec":{"cancel":true}}`))
	for _, o := range []client.Object{ep, act} {
		done = append(done, attempt(fmt.Sprintf("change %T", o), r.api.Patch(ctx, o, patch)), attempt(fmt.Sprintf("delete %T", o), r.api.Delete(ctx, o)))
	}
	return done, nil
}

// rights gives its account more rights, or takes another's.
func (r *Rogue) rights(ctx context.Context, a Ask) ([]Attempt, error) {
	me := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: r.Namespace, Name: "rollcall-gateway"}
	manager := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: "rollcall-manager"}}
	beacon := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: "rollcall-beacon"}}
	requests := &certv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "rollcall-agent-000"}}
	return []Attempt{
		attempt("bind a role", r.api.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "rogue"}, Subjects: []rbacv1.Subject{me},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		})),
		attempt("ask for the manager's token", r.api.SubResource("token").Create(ctx, manager, &authenticationv1.TokenRequest{})),
		attempt("write the beacon", r.api.Patch(ctx, beacon, client.RawPatch(types.MergePatchType, []byte(`{"data":{"beacon.json":"{}"}}`)))),
		attempt("approve a certificate", r.api.SubResource("approval").Update(ctx, requests)),
		attempt("make a program run", r.api.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: a.Namespace, Name: "rogue"}})),
	}, nil
}

// errStep says that a step which a gateway may take was not the one that was expected.
var errStep = errors.New("the action is not where it should be")

// step takes an action on as an honest gateway would, by an event, and returns it as the API server has it then.
func (r *Rogue) step(ctx context.Context, act *v1alpha1.EndpointAction, e decide.Event, change func(*v1alpha1.EndpointActionStatus)) (*v1alpha1.EndpointAction, error) {
	status, row, err := decide.Next(act, e)
	if err == nil && row == decide.None {
		err = errStep
	}
	if err != nil {
		return nil, err
	}
	next := act.DeepCopy()
	next.Status = *status
	change(&next.Status)
	return next, r.api.Status().Update(ctx, next)
}
