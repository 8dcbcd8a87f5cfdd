package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/test/harness"
)

// bigFields are managedFields that a client brings along: the API server keeps them as they are.
func bigFields(apiVersion string, n int) []metav1.ManagedFieldsEntry {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf(`"f:a%04d":{}`, i)
	}
	return []metav1.ManagedFieldsEntry{{
		Manager: "other", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: apiVersion, FieldsType: "FieldsV1", Time: ptr.To(metav1.Now()),
		FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:annotations":{` + strings.Join(keys, ",") + `}}}`),
	}}
}

func TestWhatTheGatewayMayAskToBeSigned(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	padded := func(n int) []byte { return append(bytes.Repeat([]byte("\n"), n-len(request)), request...) }
	const proof = "rollcall.dev/proof"
	const names = "signer rollcall.dev/agent with the name rollcall-agent-xxx, or rollcall.dev/gateway with rollcall-gateway-xx, x a hexadecimal digit"
	const attached = "no labels, owners or finalizers"
	const annotations = "an agent's request has one annotation, rollcall.dev/proof, of 8 KiB at most; the gateway's own has none"

	agents := func(change func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		csr := &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: "rollcall-agent-0a9", Annotations: map[string]string{proof: "{}"}},
			Spec: certificatesv1.CertificateSigningRequestSpec{
				Request: request, SignerName: "rollcall.dev/agent",
				Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
			},
		}
		change(csr)
		return csr
	}
	own := func(change func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return agents(func(csr *certificatesv1.CertificateSigningRequest) {
			csr.Name, csr.Annotations, csr.Spec.SignerName = "rollcall-gateway-0a", nil, "rollcall.dev/gateway"
			csr.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
			change(csr)
		})
	}
	type csr = certificatesv1.CertificateSigningRequest
	for _, tc := range []struct {
		name    string
		csr     *csr
		refusal string
	}{
		{"an agent's", agents(func(*csr) {}), ""},
		{"its own", own(func(*csr) {}), ""},
		{"the largest", agents(func(c *csr) { c.Spec.Request, c.Annotations[proof] = padded(2048), strings.Repeat("a", 8192) }), ""},
		{"another signer", agents(func(c *csr) { c.Spec.SignerName = "kubernetes.io/kube-apiserver-client" }), names},
		{"a free name", agents(func(c *csr) { c.Name = "devbox" }), names},
		{"a slot that is none", agents(func(c *csr) { c.Name = "rollcall-agent-0a9f" }), names},
		{"a slot in capitals", agents(func(c *csr) { c.Name = "rollcall-agent-0A9" }), names},
		{"a generated name", agents(func(c *csr) { c.Name, c.GenerateName = "", "rollcall-agent-" }), names},
		{"an agent's in a gateway's slot", agents(func(c *csr) { c.Name = "rollcall-gateway-0a" }), names},
		{"its own in an agent's slot", own(func(c *csr) { c.Name = "rollcall-agent-0a9" }), names},
		{"too large", agents(func(c *csr) { c.Spec.Request = padded(2050) }), "the request may have 2 KiB at most"},
		{"a label", agents(func(c *csr) { c.Labels = map[string]string{"a": "b"} }), attached},
		{"a finalizer", agents(func(c *csr) { c.Finalizers = []string{"example.com/stay"} }), attached},
		{"an owner", agents(func(c *csr) {
			c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n", UID: "6f1ad7f4-52cf-4f0e-9f3a-0a6f5c4a1f5b"}}
		}), attached},
		{"no proof", agents(func(c *csr) { c.Annotations = nil }), annotations},
		{"another annotation", agents(func(c *csr) { c.Annotations["a"] = "b" }), annotations},
		{"another annotation alone", agents(func(c *csr) { c.Annotations = map[string]string{"a": "b"} }), annotations},
		{"too large a proof", agents(func(c *csr) { c.Annotations[proof] = strings.Repeat("a", 8193) }), annotations},
		{"its own with a proof", own(func(c *csr) { c.Annotations = map[string]string{proof: "{}"} }), annotations},
		{"managedFields", agents(func(c *csr) { c.ManagedFields = bigFields("certificates.k8s.io/v1", 200) }), "managedFields may have 2 KiB at most"},
		{"managedFields without end", agents(func(c *csr) { c.ManagedFields = bigFields("certificates.k8s.io/v1", 50000) }), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := gateway(t).kube.CertificatesV1().CertificateSigningRequests().Create(t.Context(), tc.csr, metav1.CreateOptions{DryRun: dryRun})
			switch {
			case tc.refusal != "":
				refused(t, err, tc.refusal)
			case len(tc.csr.ManagedFields) > 0: // counting them costs more than an expression may: refused all the same
				if err == nil {
					t.Error("allowed")
				}
			case err != nil:
				t.Error(err)
			}
			if _, err := admin(t).kube.CertificatesV1().CertificateSigningRequests().Create(t.Context(), tc.csr, metav1.CreateOptions{DryRun: dryRun}); err != nil {
				t.Errorf("the fence is not the gateway's alone: %v", err)
			}
		})
	}
}

func TestWhatTheGatewayMayKeepAsALease(t *testing.T) {
	const name = "gw-fence-aaaaa"
	const names, attached, size = "a gateway's Lease is named gw-… in rollcall-system", "a gateway's Lease has no owners or finalizers", "a gateway's Lease may have 4 KiB at most"
	leases := gateway(t).kube.CoordinationV1().Leases(system)
	lease := func(change func(*coordinationv1.Lease)) *coordinationv1.Lease {
		l := &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: ptr.To(name), LeaseDurationSeconds: ptr.To[int32](15), RenewTime: ptr.To(metav1.NowMicro())},
		}
		change(l)
		return l
	}
	type l = coordinationv1.Lease
	for _, tc := range []struct {
		name, refusal string
		lease         *l
	}{
		{"its own", "", lease(func(*l) {})},
		{"the manager's", names, lease(func(l *l) { l.Name = "rollcall-manager-2" })},
		{"a finalizer", attached, lease(func(l *l) { l.Finalizers = []string{"example.com/stay"} })},
		{"an owner", attached, lease(func(l *l) {
			l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n", UID: "6f1ad7f4-52cf-4f0e-9f3a-0a6f5c4a1f5b"}}
		})},
		{"a large one", size, lease(func(l *l) { l.Annotations = map[string]string{"a": strings.Repeat("a", 4096)} })},
		{"managedFields", size, lease(func(l *l) { l.ManagedFields = bigFields("coordination.k8s.io/v1", 300) })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := leases.Create(t.Context(), tc.lease, metav1.CreateOptions{DryRun: dryRun})
			if tc.refusal != "" {
				refused(t, err, tc.refusal)
			} else if err != nil {
				t.Error(err)
			}
		})
	}

	t.Run("renewing and deleting", func(t *testing.T) {
		own, err := leases.Create(t.Context(), lease(func(*l) {}), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		own.Spec.RenewTime = ptr.To(metav1.NowMicro())
		if own, err = leases.Update(t.Context(), own, metav1.UpdateOptions{}); err != nil {
			t.Error(err)
		}
		grown := own.DeepCopy()
		grown.Annotations = map[string]string{"a": strings.Repeat("a", 4096)}
		_, err = leases.Update(t.Context(), grown, metav1.UpdateOptions{DryRun: dryRun})
		refused(t, err, size)
		if err := leases.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})

	t.Run("the leader's", func(t *testing.T) {
		// Without a holder it hinders no manager that another test runs.
		leader := lease(func(l *l) { l.Name, l.Spec = "rollcall-manager", coordinationv1.LeaseSpec{} })
		all := admin(t).kube.CoordinationV1().Leases(system)
		_, err := all.Create(t.Context(), leader, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
		if leader, err = all.Get(t.Context(), leader.Name, metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err = leases.Update(t.Context(), leader, metav1.UpdateOptions{DryRun: dryRun})
		refused(t, err, names)
		refused(t, leases.Delete(t.Context(), "rollcall-manager", metav1.DeleteOptions{DryRun: dryRun}), names)
	})
}

// Kubernetes' own look at our expressions: a field that the schema does not have, or has by another type, is a mistake in one of them. It looks
// when a policy is made, at kinds that are known then and named exactly: so it is given copies, which are bound to nothing.
func TestExpressionsFitTheirKinds(t *testing.T) {
	policies := admin(t).kube.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	looked := 0
	for _, objects := range manifests(t, "policy") {
		for _, object := range objects {
			policy, ok := object.(*admissionv1.ValidatingAdmissionPolicy)
			if !ok {
				continue
			}
			looked++
			rules := policy.Spec.MatchConstraints.ResourceRules
			for i := range rules {
				rules[i].APIVersions = []string{strings.ReplaceAll(rules[i].APIVersions[0], "*", "v1alpha1")}
				rules[i].Resources = []string{strings.TrimSuffix(rules[i].Resources[0], "/status")}
			}
			fitted := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{GenerateName: "copy-of-" + policy.Name + "-"}, Spec: policy.Spec}
			fitted, err := policies.Create(t.Context(), fitted, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = policies.Delete(context.Background(), fitted.Name, metav1.DeleteOptions{}) })
			harness.Eventually(t, 30*time.Second, func() error {
				if fitted, err = policies.Get(t.Context(), fitted.Name, metav1.GetOptions{}); err == nil && fitted.Status.TypeChecking == nil {
					return errors.New("nobody has looked at it")
				}
				return err
			})
			for _, w := range fitted.Status.TypeChecking.ExpressionWarnings {
				t.Errorf("%s, %s: %s", policy.Name, w.FieldRef, w.Warning)
			}
		}
	}
	if looked != 8 {
		t.Errorf("%d policies, want 8", looked)
	}
}
