package controllers_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// enrolled checks that a machine has exactly one Endpoint in the namespace, that the certificate is of its identity and key, and that all
// traces of the enrolment are gone. It returns the Endpoint.
func enrolled(t *testing.T, c client.Client, ns, name string, m *machine, cert *x509.Certificate) *v1alpha1.Endpoint {
	t.Helper()
	var list v1alpha1.EndpointList
	if err := c.List(t.Context(), &list, client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	var mine []*v1alpha1.Endpoint
	for i := range list.Items {
		ep := &list.Items[i]
		if ep.Status.Identity == nil || bytes.Equal(ep.Status.Identity.PublicKeys[0], spkiOf(t, m.key.Public())) {
			mine = append(mine, ep)
		}
	}
	if len(mine) != 1 || mine[0].Name != name || mine[0].Status.Identity == nil {
		t.Fatalf("want exactly one Endpoint, %s, with an identity; got %+v", name, mine)
	}
	ep := mine[0]
	fleet, id, err := identity.ParseURI(cert)
	if err != nil || fleet != m.fleet || id != ep.Status.Identity.ID {
		t.Errorf("the certificate names %s in fleet %s (%v), the Endpoint has identity %s", id, fleet, err, ep.Status.Identity.ID)
	}
	if !m.key.PublicKey.Equal(cert.PublicKey) {
		t.Error("the certificate is for another key")
	}
	if len(ep.ManagedFields) > 0 || ep.Annotations["rollcall.dev/enrolling"] != "" {
		t.Errorf("not settled: annotations %v, %d managedFields", ep.Annotations, len(ep.ManagedFields))
	}
	if !ep.Status.Identity.CertificateExpirationTime.Time.Equal(cert.NotAfter) {
		t.Errorf("the status says that the certificate ends %s, it ends %s", ep.Status.Identity.CertificateExpirationTime, cert.NotAfter)
	}
	return ep
}

func usesOf(t *testing.T, c client.Client, token *v1alpha1.EnrollmentToken, want int32) {
	t.Helper()
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(token), token); err != nil {
			return err
		}
		if uses := ptr.Deref(token.Status.Uses, -1); uses != want || len(token.Status.Claims) > 0 {
			return fmt.Errorf("%d uses, want %d; claims %v", uses, want, token.Status.Claims)
		}
		return nil
	})
}

func TestManagerKilledAtEveryStepOfAnEnrollment(t *testing.T) {
	points := []string{"claim", "endpoint", "identity", "settlement", "approval", "signature"}
	first := startManager(t)
	c, gateway, ns := admin(t), as(t, local.GatewayAccount), world.api.Namespace(t)
	tokens, machines := make([]*v1alpha1.EnrollmentToken, len(points)), make([]*machine, len(points))
	for i := range points {
		var text identity.Token
		tokens[i], text = newToken(t, c, ns, fmt.Sprintf("token-%d", i), v1alpha1.EnrollmentTokenSpec{MaxUses: ptr.To[int32](1)})
		machines[i] = newMachine(t, text, fleetID(t, c), fmt.Sprintf("box-%d", i))
		usesOf(t, c, tokens[i], 0)
	}
	first.Stop(3 * time.Second)
	for i, point := range points {
		t.Run(point, func(t *testing.T) {
			token, m := tokens[i], machines[i]
			r := request(t, m.key.Public(), m.enrollment(t))
			post(t, gateway, r)
			dies(t, point)
			startManager(t)
			// The agent repeats itself until it has an answer: the slot may be gone by now.
			cert, denial := askAgain(t, gateway, r)
			if denial != nil {
				t.Fatalf("denied: %s: %s", denial.Reason, denial.Message)
			}
			ep := enrolled(t, c, ns, m.hostname, m, cert)
			usesOf(t, c, token, 1)

			// The reply was lost, and the request with it: the same again is the same identity, though the token is used up.
			gone(t, c, r)
			again, denial := ask(t, gateway, r)
			if denial != nil {
				t.Fatalf("denied the second time: %s: %s", denial.Reason, denial.Message)
			}
			if second := enrolled(t, c, ns, m.hostname, m, again); second.Status.Identity.ID != ep.Status.Identity.ID {
				t.Error("the second answer is another identity")
			}
			usesOf(t, c, token, 1)
		})
	}
}

// dies runs a manager that kills itself after a step.
func dies(t *testing.T, point string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "fault")
	if err := faults.Arm(file, faults.Order{Point: faults.Point(faults.WhenAfter, point)}); err != nil {
		t.Fatal(err)
	}
	doomed := launchManager(t, "--fault-file="+file)
	<-doomed.Done()
	if err := doomed.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the manager was to die at %q, it ended with %v; its log:\n%s", point, err, local.Tail(doomed.Log, 20))
	}
}

// askAgain posts a request unless its slot is occupied, until it is answered.
func askAgain(t *testing.T, gateway client.Client, r *certv1.CertificateSigningRequest) (cert *x509.Certificate, denial *certv1.CertificateSigningRequestCondition) {
	t.Helper()
	eventually(t, func() error {
		if err := gateway.Create(t.Context(), r.DeepCopy()); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		return nil
	})
	return answer(t, gateway, r)
}

// gone waits until an answered request was deleted.
func gone(t *testing.T, c client.Client, r *certv1.CertificateSigningRequest) {
	t.Helper()
	eventually(t, func() error {
		err := c.Get(t.Context(), client.ObjectKeyFromObject(r), &certv1.CertificateSigningRequest{})
		if err == nil {
			return errors.New("the request is still there")
		}
		return client.IgnoreNotFound(err)
	})
}

func TestTenMachinesOneUse(t *testing.T) {
	startManager(t)
	c, gateway, ns := admin(t), as(t, local.GatewayAccount), world.api.Namespace(t)
	token, text := newToken(t, c, ns, "one", v1alpha1.EnrollmentTokenSpec{MaxUses: ptr.To[int32](1)})
	fleet := fleetID(t, c)
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		in       int
		refusals []string
	)
	for i := range 10 {
		m := newMachine(t, text, fleet, fmt.Sprintf("host%d", i))
		r := request(t, m.key.Public(), m.enrollment(t))
		wg.Go(func() {
			cert, denial := ask(t, gateway, r)
			mu.Lock()
			defer mu.Unlock()
			if cert != nil {
				in++
			} else {
				refusals = append(refusals, denial.Reason)
			}
		})
	}
	wg.Wait()
	if in != 1 || len(refusals) != 9 || strings.Count(strings.Join(refusals, " "), "TokenExhausted") != 9 {
		t.Errorf("%d got in, the others got %v", in, refusals)
	}
	var list v1alpha1.EndpointList
	if err := c.List(t.Context(), &list, client.InNamespace(ns)); err != nil || len(list.Items) != 1 {
		t.Errorf("%d Endpoints (%v), want 1", len(list.Items), err)
	}
	usesOf(t, c, token, 1)
	if cond := meta.FindStatusCondition(token.Status.Conditions, "Usable"); cond == nil || cond.Reason != "UsedUp" || !strings.Contains(token.Status.LastDenial, "raise its maxUses") {
		t.Errorf("the token says %+v, last denial %q", cond, token.Status.LastDenial)
	}
}

func TestRefusedEnrollments(t *testing.T) {
	startManager(t)
	c, gateway, ns := admin(t), as(t, local.GatewayAccount), world.api.Namespace(t)
	fleet := fleetID(t, c)
	token, text := newToken(t, c, ns, "many", v1alpha1.EnrollmentTokenSpec{})
	fresh := func(host string) *machine { return newMachine(t, text, fleet, host) }
	other := fresh("other")

	for _, tc := range []struct {
		name   string
		reason string
		make   func(t *testing.T) *certv1.CertificateSigningRequest
	}{
		{"no proof", "ProofInvalid", func(t *testing.T) *certv1.CertificateSigningRequest {
			m := fresh("a")
			r := request(t, m.key.Public(), m.enrollment(t))
			r.Annotations["rollcall.dev/proof"] = "{"
			return r
		}},
		{"another token's key", "ProofInvalid", func(t *testing.T) *certv1.CertificateSigningRequest {
			m := fresh("b")
			_, _ = rand.Read(m.token.Seed[:])
			return request(t, m.key.Public(), m.enrollment(t))
		}},
		{"altered on the way", "ProofInvalid", func(t *testing.T) *certv1.CertificateSigningRequest {
			m := fresh("c")
			e := m.enrollment(t)
			e.Payload = bytes.Replace(e.Payload, []byte(`"hostname":"c"`), []byte(`"hostname":"d"`), 1)
			return request(t, m.key.Public(), e)
		}},
		{"another fleet", "ProofInvalid", func(t *testing.T) *certv1.CertificateSigningRequest {
			m := fresh("e")
			m.fleet = "00000000-0000-4000-8000-000000000000"
			return request(t, m.key.Public(), m.enrollment(t))
		}},
		{"another request than was signed", "CsrInvalid", func(t *testing.T) *certv1.CertificateSigningRequest {
			m := fresh("f")
			r := request(t, m.key.Public(), m.enrollment(t))
			r.Spec.Request = pemCSR(csrDER(t, other.key))
			return r
		}},
		{"a key that is not P-256", "CsrInvalid", func(t *testing.T) *certv1.CertificateSigningRequest {
			m := fresh("g")
			e := seal(t, m.token.Key(), envelope.Enrollment, &agentv1.Enrollment{
				FleetId: fleet, TokenUid: text.UID, Csr: csrDER(t, m.token.Key()), Hostname: "g", MachineId: m.machineID, AgentVersion: "8.0.0",
			})
			return request(t, m.token.Key().Public(), e)
		}},
		{"a token that is not there", "TokenUnknown", func(t *testing.T) *certv1.CertificateSigningRequest {
			m := fresh("h")
			m.token.UID = "00000000-0000-4000-8000-000000000001"
			return request(t, m.key.Public(), m.enrollment(t))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cert, denial := ask(t, gateway, tc.make(t))
			if cert != nil || denial.Reason != tc.reason {
				t.Errorf("got %+v, want the reason %s", denial, tc.reason)
			}
		})
	}
	// A person may ask for more than an agent's certificate may do; only the gateway's account is fenced by admission.
	t.Run("usages", func(t *testing.T) {
		m := fresh("i")
		r := request(t, m.key.Public(), m.enrollment(t))
		r.Spec.Usages = append(r.Spec.Usages, certv1.UsageServerAuth)
		if _, denial := ask(t, c, r); denial == nil || denial.Reason != "CsrInvalid" {
			t.Errorf("got %+v, want CsrInvalid", denial)
		}
	})
	usesOf(t, c, token, 0)
	var list v1alpha1.EndpointList
	if err := c.List(t.Context(), &list, client.InNamespace(ns)); err != nil || len(list.Items) != 0 {
		t.Errorf("%d Endpoints (%v), want none", len(list.Items), err)
	}
}

func pemCSR(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestNames(t *testing.T) {
	startManager(t)
	c, gateway, ns := admin(t), as(t, local.GatewayAccount), world.api.Namespace(t)
	fleet := fleetID(t, c)
	enroll := func(t *testing.T, text identity.Token, host string) (*machine, *v1alpha1.Endpoint, *certv1.CertificateSigningRequestCondition) {
		m := newMachine(t, text, fleet, host)
		cert, denial := ask(t, gateway, request(t, m.key.Public(), m.enrollment(t)))
		if denial != nil {
			return m, nil, denial
		}
		_, id, _ := identity.ParseURI(cert)
		var list v1alpha1.EndpointList
		if err := c.List(t.Context(), &list, client.InNamespace(ns)); err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			if s := list.Items[i].Status.Identity; s != nil && s.ID == id {
				return m, &list.Items[i], nil
			}
		}
		t.Fatal("no Endpoint has the identity")
		return nil, nil, nil
	}
	_, text := newToken(t, c, ns, "plain", v1alpha1.EnrollmentTokenSpec{Labels: map[string]v1alpha1.LabelValue{"site": "berlin"}})

	t.Run("a taken name gets a suffix", func(t *testing.T) {
		_, ep, _ := enroll(t, text, "Web1.example.com")
		if ep.Name != "web1" || ep.Labels["site"] != "berlin" || ep.Annotations["velero.io/restore-status"] != "true" {
			t.Errorf("got %s with labels %v and annotations %v", ep.Name, ep.Labels, ep.Annotations)
		}
		m, ep, _ := enroll(t, text, "web1")
		if want := "web1-" + identity.KeyHash(spkiOf(t, m.key.Public()))[:5]; ep.Name != want {
			t.Errorf("got %s, want %s", ep.Name, want)
		}
	})
	t.Run("one key is one identity, whatever the machine is called by then", func(t *testing.T) {
		m, ep, _ := enroll(t, text, "before")
		m.hostname = "after"
		r := request(t, m.key.Public(), m.enrollment(t))
		gone(t, c, r)
		cert, denial := ask(t, gateway, r)
		if denial != nil {
			t.Fatal(denial.Reason, denial.Message)
		}
		if _, id, _ := identity.ParseURI(cert); id != ep.Status.Identity.ID {
			t.Errorf("it is identity %s now, was %s", id, ep.Status.Identity.ID)
		}
	})
	t.Run("a declared Endpoint is for the token that names it", func(t *testing.T) {
		declared := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "reserved"}}
		if err := c.Create(t.Context(), declared); err != nil {
			t.Fatal(err)
		}
		if _, ep, _ := enroll(t, text, "reserved"); ep.Name == "reserved" {
			t.Error("any token took it")
		}
		_, own := newToken(t, c, ns, "for-reserved", v1alpha1.EnrollmentTokenSpec{EndpointName: "reserved"})
		first, ep, _ := enroll(t, own, "whatever")
		if ep.Name != "reserved" {
			t.Errorf("got %s", ep.Name)
		}
		old := ep.Status.Identity.ID
		// The gateway writes what it knows of the machine; the manager writes beside it.
		before := ep.DeepCopy()
		ep.Status.Connection = &v1alpha1.EndpointConnection{Channel: v1alpha1.ChannelHeartbeat, Epoch: 7, InstanceID: "a"}
		if err := c.Status().Patch(t.Context(), ep, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
		_, ep, _ = enroll(t, own, "re-imaged")
		if ep.Name != "reserved" || ep.Status.Identity.ID == old || ep.Status.Connection != nil {
			t.Errorf("a second enrolment with it replaces the identity, and the session of the first machine goes: %+v", ep.Status)
		}
		// The first machine's key is nobody's now: with the same token it is another enrolment.
		_ = first
	})
	t.Run("SameMachineOffline takes over", func(t *testing.T) {
		_, replacing := newToken(t, c, ns, "replacing", v1alpha1.EnrollmentTokenSpec{Replace: "SameMachineOffline"})
		_, ep, _ := enroll(t, replacing, "laptop")
		was := ep.Status.Identity.ID
		_, ep, _ = enroll(t, replacing, "laptop") // the machine ID follows from the host name in these tests
		if ep.Name != "laptop" || ep.Status.Identity.ID == was {
			t.Errorf("got %s with identity %s, want laptop with a new one", ep.Name, ep.Status.Identity.ID)
		}
	})
	t.Run("a blocked machine stays out", func(t *testing.T) {
		_, ep, _ := enroll(t, text, "stolen")
		ep.Spec.Lifecycle = v1alpha1.LifecycleBlocked
		if err := c.Update(t.Context(), ep); err != nil {
			t.Fatal(err)
		}
		harnessSettles(t, c, ep)
		_, _, denial := enroll(t, text, "stolen")
		if denial == nil || denial.Reason != "EnrollmentDenied" || !strings.Contains(denial.Message, "set its spec.lifecycle to Active") {
			t.Errorf("got %+v", denial)
		}
	})
}

// harnessSettles gives the manager's cache the time to see a change: until a request that needs it behaves so.
func harnessSettles(t *testing.T, c client.Client, o client.Object) {
	t.Helper()
	eventually(t, func() error { return c.Get(t.Context(), client.ObjectKeyFromObject(o), o) })
}

// TestRefusalsOfTheClusterCostNoUse: what the API server would not take is found out before a use is counted.
func TestRefusalsOfTheClusterCostNoUse(t *testing.T) {
	startManager(t)
	c, gateway := admin(t), as(t, local.GatewayAccount)
	t.Run("a quota", func(t *testing.T) {
		ns := world.api.Namespace(t)
		token, text := newToken(t, c, ns, "token", v1alpha1.EnrollmentTokenSpec{MaxUses: ptr.To[int32](1)})
		full := &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "full"},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/endpoints.rollcall.dev": resource.MustParse("0")}},
		}
		if err := c.Create(t.Context(), full); err != nil {
			t.Fatal(err)
		}
		full.Status.Hard, full.Status.Used = full.Spec.Hard, full.Spec.Hard // as the quota controller would, which does not run here
		if err := c.Status().Update(t.Context(), full); err != nil {
			t.Fatal(err)
		}
		m := newMachine(t, text, fleetID(t, c), "box")
		r := request(t, m.key.Public(), m.enrollment(t))
		post(t, gateway, r)
		eventually(t, func() error {
			var events corev1.EventList
			if err := c.List(t.Context(), &events, client.InNamespace(ns)); err != nil {
				return err
			}
			for _, e := range events.Items {
				if e.Reason == "EnrollmentDelayed" && strings.Contains(e.Message, "exceeded quota") {
					return nil
				}
			}
			return errors.New("nobody is told")
		})
		usesOf(t, c, token, 0)
		deleteNow(t, c, full)
		cert, denial := answer(t, gateway, r)
		if denial != nil {
			t.Fatal(denial.Reason, denial.Message)
		}
		enrolled(t, c, ns, "box", m, cert)
		usesOf(t, c, token, 1)
	})
	t.Run("a namespace that is being deleted", func(t *testing.T) {
		ns := world.api.Namespace(t)
		// Something that does not go keeps the namespace, and with it the token.
		token := &v1alpha1.EnrollmentToken{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "token", Finalizers: []string{"example.com/keep"}}}
		if err := c.Create(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		text := handedOut(t, c, token)
		deleteNow(t, c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
		m := newMachine(t, text, fleetID(t, c), "late")
		_, denial := ask(t, gateway, request(t, m.key.Public(), m.enrollment(t)))
		if denial == nil || denial.Reason != "EnrollmentDenied" && denial.Reason != "TokenUnknown" || !strings.Contains(denial.Message, "is being deleted") {
			t.Errorf("got %+v", denial)
		}
		eventually(t, func() error {
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(token), token); err != nil {
				return err
			}
			token.Finalizers = nil
			return c.Update(t.Context(), token)
		})
	})
}

func TestManualApproval(t *testing.T) {
	startManager(t)
	c, gateway, ns := admin(t), as(t, local.GatewayAccount), world.api.Namespace(t)
	token, text := newToken(t, c, ns, "manual", v1alpha1.EnrollmentTokenSpec{Approval: "Manual", MaxUses: ptr.To[int32](1)})
	m := newMachine(t, text, fleetID(t, c), "vault")
	r := request(t, m.key.Public(), m.enrollment(t))
	post(t, gateway, r)
	eventually(t, func() error {
		var events corev1.EventList
		if err := c.List(t.Context(), &events, client.InNamespace(ns)); err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == "ApprovalNeeded" && strings.Contains(e.Message, "kubectl certificate approve "+r.Name) {
				return nil
			}
		}
		return errors.New("nobody was told to approve it")
	})
	usesOf(t, c, token, 0)
	world.api.Kubectl(t, "certificate", "approve", r.Name)
	cert, denial := answer(t, gateway, r)
	if denial != nil {
		t.Fatal(denial.Reason, denial.Message)
	}
	enrolled(t, c, ns, "vault", m, cert)
	usesOf(t, c, token, 1)
}

func TestRenewal(t *testing.T) {
	startManager(t)
	c, gateway, ns := admin(t), as(t, local.GatewayAccount), world.api.Namespace(t)
	_, text := newToken(t, c, ns, "token", v1alpha1.EnrollmentTokenSpec{})
	m := newMachine(t, text, fleetID(t, c), "box")
	cert, denial := ask(t, gateway, request(t, m.key.Public(), m.enrollment(t)))
	if denial != nil {
		t.Fatal(denial.Message)
	}
	ep := enrolled(t, c, ns, "box", m, cert)
	ids := ep.Status.Identity.ID
	oldKey, oldCert := m.key, cert
	renew := func(t *testing.T, key *ecdsa.PrivateKey, cert *x509.Certificate, next *ecdsa.PrivateKey) (*x509.Certificate, *certv1.CertificateSigningRequestCondition) {
		t.Helper()
		r := request(t, next.Public(), m.renewal(t, key, cert, next))
		defer gone(t, c, r)
		return ask(t, gateway, r)
	}
	m.key = newKey(t)
	if cert, denial = renew(t, oldKey, oldCert, m.key); denial != nil {
		t.Fatal(denial.Reason, denial.Message)
	}
	ep = enrolled(t, c, ns, "box", m, cert)
	if ep.Status.Identity.ID != ids || len(ep.Status.Identity.PublicKeys) != 2 || !bytes.Equal(ep.Status.Identity.PublicKeys[1], spkiOf(t, oldKey.Public())) {
		t.Errorf("want the same identity with both keys, got %+v", ep.Status.Identity)
	}
	if until := ep.Status.Identity.PreviousKeyExpirationTime; until == nil || time.Until(until.Time) < 23*time.Hour {
		t.Errorf("the old key is accepted until %v, want a day", until)
	}
	t.Run("the same renewal is answered again", func(t *testing.T) {
		again, denial := renew(t, oldKey, oldCert, m.key)
		if denial != nil {
			t.Fatal(denial.Reason, denial.Message)
		}
		enrolled(t, c, ns, "box", m, again)
	})
	t.Run("a suspended endpoint cannot", func(t *testing.T) {
		setLifecycle(t, c, ep, v1alpha1.LifecycleSuspended)
		eventually(t, func() error {
			if _, denial := renew(t, m.key, cert, newKey(t)); denial == nil || denial.Reason != "EndpointSuspended" {
				return fmt.Errorf("got %+v, want EndpointSuspended", denial)
			}
			return nil
		})
	})
	t.Run("a superseded key is a conflict", func(t *testing.T) {
		setLifecycle(t, c, ep, v1alpha1.LifecycleActive)
		third := newKey(t)
		eventually(t, func() error {
			next, denial := renew(t, m.key, cert, third)
			if denial != nil {
				return fmt.Errorf("denied: %s", denial.Message)
			}
			m.key, cert = third, next
			return nil
		})
		if _, denial := renew(t, oldKey, oldCert, newKey(t)); denial == nil || denial.Reason != "CertificateSuperseded" {
			t.Fatalf("got %+v, want CertificateSuperseded", denial)
		}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(ep), ep); err != nil {
			t.Fatal(err)
		}
		if !meta.IsStatusConditionTrue(ep.Status.Conditions, v1alpha1.EndpointIdentityConflict) {
			t.Errorf("no IdentityConflict in %+v", ep.Status.Conditions)
		}
	})
	t.Run("a certificate of another CA", func(t *testing.T) {
		forged := forge(t, m.fleet, ids)
		if _, denial := renew(t, forged.key, forged.cert, newKey(t)); denial == nil || denial.Reason != "CertificateUnknown" {
			t.Errorf("got %+v, want CertificateUnknown", denial)
		}
	})
	t.Run("a deleted endpoint", func(t *testing.T) {
		if err := c.Delete(t.Context(), ep); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			if _, denial := renew(t, m.key, cert, newKey(t)); denial == nil || denial.Reason != "EndpointUnknown" {
				return fmt.Errorf("got %+v, want EndpointUnknown", denial)
			}
			return nil
		})
	})
}

func setLifecycle(t *testing.T, c client.Client, ep *v1alpha1.Endpoint, lifecycle v1alpha1.EndpointLifecycle) {
	t.Helper()
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(ep), ep); err != nil {
			return err
		}
		ep.Spec.Lifecycle = lifecycle
		return c.Update(t.Context(), ep)
	})
}

type forgery struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func forge(t *testing.T, fleet, id string) forgery {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{identity.URI(fleet, id)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return forgery{key, cert}
}
