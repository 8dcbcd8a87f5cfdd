package controllers_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/test/harness"
)

func usableSays(t *testing.T, c client.Client, token *v1alpha1.EnrollmentToken, status metav1.ConditionStatus, reason string) {
	t.Helper()
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(token), token); err != nil {
			return err
		}
		cond := meta.FindStatusCondition(token.Status.Conditions, "Usable")
		if cond == nil || cond.Status != status || cond.Reason != reason || token.Status.ObservedGeneration != token.Generation {
			return fmt.Errorf("Usable is %+v, want %s %s", cond, status, reason)
		}
		return nil
	})
}

func TestTokenIsHandedOutOnce(t *testing.T) {
	p := startManager(t)
	c, ns := admin(t), world.api.Namespace(t)
	token, text := newToken(t, c, ns, "laptops", v1alpha1.EnrollmentTokenSpec{ExpiresAfterHours: 24})
	usableSays(t, c, token, metav1.ConditionTrue, "Usable")
	if token.Status.ExpirationTime == nil || !token.Status.ExpirationTime.Time.Equal(token.CreationTimestamp.Add(24*time.Hour)) || *token.Status.Uses != 0 ||
		string(token.Status.PublicKey) != string(spkiOf(t, text.Key().Public())) || token.Status.SecretName != "laptops-token" {
		t.Errorf("the status says %+v", token.Status)
	}
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: ns, Name: "laptops-token"}
	if err := c.Get(t.Context(), key, secret); err != nil {
		t.Fatal(err)
	}
	want := "echo '" + text.Reveal() + "' | sudo rollcall-agent install --server https://gateway.test:8443 --token-file -"
	if got := string(secret.Data["install"]); got != want {
		t.Errorf("the install line is %q, want %q", got, want)
	}
	if o := secret.OwnerReferences; len(o) != 1 || o[0].UID != token.UID {
		t.Errorf("it is owned by %+v", o)
	}

	// Somebody deletes the Secret when the token has reached its machines: it stays away, whatever happens to the token.
	deleteNow(t, c, secret)
	token.Spec.ExpiresAfterHours = 48
	if err := c.Update(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	usableSays(t, c, token, metav1.ConditionTrue, "Usable")
	if err := c.Get(t.Context(), key, secret); !apierrors.IsNotFound(err) {
		t.Errorf("the deleted Secret is back: %v", err)
	}

	// A token of the same name is another one; the Secret of the first goes by garbage collection.
	second, text2 := recreated(t, c, token)
	if text2.UID != string(second.UID) || text2.Reveal() == text.Reveal() {
		t.Error("the second token is the first")
	}
	deleteNow(t, c, second)
	third := &v1alpha1.EnrollmentToken{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "laptops"}}
	if err := c.Create(t.Context(), third); err != nil {
		t.Fatal(err)
	}
	// The garbage collector looks for new kinds every 30 seconds.
	harness.Eventually(t, time.Minute, func() error {
		if err := c.Get(t.Context(), key, secret); err != nil {
			return err
		}
		if secret.OwnerReferences[0].UID != third.UID {
			return errors.New("the Secret is still the second token's")
		}
		return nil
	})
	usableSays(t, c, third, metav1.ConditionTrue, "Usable")
	if said := local.Tail(p.Log, 10000); strings.Contains(said, text2.Reveal()) {
		t.Error("the log has the token")
	}
}

func recreated(t *testing.T, c client.Client, token *v1alpha1.EnrollmentToken) (*v1alpha1.EnrollmentToken, identity.Token) {
	t.Helper()
	deleteNow(t, c, token)
	return newToken(t, c, token.Namespace, token.Name, v1alpha1.EnrollmentTokenSpec{})
}

func TestTokenOfALostMasterKey(t *testing.T) {
	first := startManager(t)
	c, ns := admin(t), world.api.Namespace(t)
	token, _ := newToken(t, c, ns, "old", v1alpha1.EnrollmentTokenSpec{})
	usableSays(t, c, token, metav1.ConditionTrue, "Usable")
	first.Stop(3 * time.Second)
	deleteNow(t, c, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: local.Namespace, Name: "rollcall-token-key"}})
	startManager(t)
	usableSays(t, c, token, metav1.ConditionFalse, "KeyReplaced")
	if len(token.Status.PublicKey) > 0 {
		t.Error("gateways still accept it")
	}
	kstatusSays(t, token, status.FailedStatus)
	// What the message tells people to do helps.
	second, _ := recreated(t, c, token)
	usableSays(t, c, second, metav1.ConditionTrue, "Usable")
	kstatusSays(t, second, status.CurrentStatus)
}

// kstatusSays asks the library that Flux and cli-utils judge by.
func kstatusSays(t *testing.T, token *v1alpha1.EnrollmentToken, want status.Status) {
	t.Helper()
	o, err := runtime.DefaultUnstructuredConverter.ToUnstructured(token)
	if err != nil {
		t.Fatal(err)
	}
	got, err := status.Compute(&unstructured.Unstructured{Object: o})
	if err != nil || got.Status != want {
		t.Errorf("kstatus says %+v, %v; want %s", got, err, want)
	}
}

func TestSecretInTheWayOfAToken(t *testing.T) {
	startManager(t, "--token-hour=1m") // the 2 minutes until it is in the way are 2 seconds then
	c, ns := admin(t), world.api.Namespace(t)
	other := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "shared-token"}, StringData: map[string]string{"token": "somebody else's"}}
	if err := c.Create(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	token := &v1alpha1.EnrollmentToken{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "shared"}}
	if err := c.Create(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	usableSays(t, c, token, metav1.ConditionFalse, "SecretPending")
	kstatusSays(t, token, status.InProgressStatus)
	usableSays(t, c, token, metav1.ConditionFalse, "SecretExists")
	kstatusSays(t, token, status.FailedStatus)
	if token.Status.SecretName != "" || len(token.Status.PublicKey) > 0 {
		t.Errorf("the status says %+v, and nobody has this token", token.Status)
	}
	// What the message tells people to do helps.
	deleteNow(t, c, other)
	handedOut(t, c, token)
	usableSays(t, c, token, metav1.ConditionTrue, "Usable")
	kstatusSays(t, token, status.CurrentStatus)
}

func TestTokenLeftHalfMade(t *testing.T) {
	setup(t)
	c, ns := admin(t), world.api.Namespace(t)
	token := &v1alpha1.EnrollmentToken{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "half"}}
	if err := c.Create(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	dies(t, "token")
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(token), token); err != nil {
		t.Fatal(err)
	}
	if len(token.Status.PublicKey) == 0 {
		t.Error("its Secret is there, and gateways cannot verify it")
	}
	handedOut(t, c, token)
	startManager(t)
	usableSays(t, c, token, metav1.ConditionTrue, "Usable") // the Secret is its own, not in its way
}
