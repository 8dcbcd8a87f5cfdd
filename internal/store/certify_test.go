package store

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/csr"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// proofOf is an enrolment as the token's key signed it.
func proofOf(t testing.TB, hostname string) *agentv1.Envelope {
	t.Helper()
	e, err := envelope.Seal(rootKey, envelope.Enrollment, &agentv1.Enrollment{FleetId: fleetID, TokenUid: policyID, Hostname: hostname})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// applicant is an agent that wants a certificate.
type applicant struct {
	key       *ecdsa.PrivateKey
	spki, csr []byte
	proof     *agentv1.Envelope
}

func applicantWith(t testing.TB, key *ecdsa.PrivateKey) applicant {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return applicant{key: key, spki: spkiOf(t, key.Public()), csr: csr, proof: proofOf(t, "laptop")}
}

func (a applicant) slot() string { return identity.AgentSlot(a.spki) }

// inSlot finds another applicant for the same slot.
func (a applicant) inSlot(t testing.TB) applicant {
	t.Helper()
	for {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if identity.AgentSlot(spkiOf(t, key.Public())) == a.slot() {
			return applicantWith(t, key)
		}
	}
}

// desk answers certificate requests as the manager does, when told to.
type desk struct {
	*fleet
	// owner is the cluster's: the manager watches, and asks for no request by name.
	owner client.Client
}

// applicant returns one whose slot is empty: there are 4,096, and what other tests asked for stays in theirs.
func (d desk) applicant() applicant {
	d.t.Helper()
	for {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			d.t.Fatal(err)
		}
		a := applicantWith(d.t, key)
		err = d.owner.Get(d.t.Context(), types.NamespacedName{Name: a.slot()}, &certv1.CertificateSigningRequest{})
		switch {
		case apierrors.IsNotFound(err):
			return a
		case err != nil:
			d.t.Fatal(err)
		}
	}
}

// wait returns a request once it is there.
func (d desk) wait(name string) *certv1.CertificateSigningRequest {
	d.t.Helper()
	r := &certv1.CertificateSigningRequest{}
	harness.Eventually(d.t, 5*time.Second, func() error { return d.owner.Get(d.t.Context(), types.NamespacedName{Name: name}, r) })
	return r
}

// waitServing returns the request for a serving certificate that nobody has answered.
func (d desk) waitServing() (found *certv1.CertificateSigningRequest) {
	d.t.Helper()
	harness.Eventually(d.t, 5*time.Second, func() error {
		all := &certv1.CertificateSigningRequestList{}
		if err := d.manager.List(d.t.Context(), all); err != nil {
			return err
		}
		for _, r := range all.Items {
			if r.Spec.SignerName == csr.GatewaySigner && len(r.Status.Conditions) == 0 {
				found = &r
				return nil
			}
		}
		return errors.New("nothing was asked for")
	})
	return found
}

func (d desk) issue(r *certv1.CertificateSigningRequest, key any) []byte {
	d.t.Helper()
	der, err := testCA().Issue(x509.Certificate{}, key, time.Now())
	if err == nil {
		err = csr.Approve(d.t.Context(), d.manager, r, "Test", "by the test")
	}
	if err == nil {
		err = csr.Issue(d.t.Context(), d.manager, r, der)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return der
}

func (d desk) remove(r *certv1.CertificateSigningRequest) {
	d.t.Helper()
	if err := d.manager.Delete(d.t.Context(), r); client.IgnoreNotFound(err) != nil {
		d.t.Fatal(err)
	}
}

type certified struct {
	der []byte
	err error
}

// ask has a gateway certify an applicant.
func ask(t *testing.T, g *gateway, a applicant) <-chan certified {
	out := make(chan certified, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		der, err := g.Certify(ctx, a.spki, a.csr, a.proof)
		out <- certified{der, err}
	}()
	return out
}

func newDesk(t *testing.T) (desk, *gateway) {
	t.Helper()
	f := newFleet(t)
	return desk{f, f.api.Client(t, "")}, f.ready(f.gateway())
}

func TestCertify(t *testing.T) {
	d, g := newDesk(t)
	a := d.applicant()
	first := ask(t, g, a)
	r := d.wait(a.slot())
	second := ask(t, g, a) // the agent's connection broke, and it asks again
	other := ask(t, d.ready(d.gateway()), a)
	if _, err := csr.Request(r, certv1.UsageDigitalSignature, certv1.UsageClientAuth); err != nil || r.Spec.SignerName != csr.AgentSigner || len(r.Labels) != 0 {
		t.Errorf("the request is not what the manager wants: %v, %+v", err, r)
	}
	began := time.Now()
	want := d.issue(r, a.key.Public())
	for name, c := range map[string]<-chan certified{"first": first, "second": second, "through another gateway": other} {
		if got := <-c; got.err != nil || !bytes.Equal(got.der, want) {
			t.Errorf("%s: %v", name, got.err)
		}
	}
	t.Logf("answered %s after the certificate was issued", time.Since(began).Round(time.Millisecond))
	if got := <-ask(t, g, a); got.err != nil || !bytes.Equal(got.der, want) {
		t.Errorf("asked again after the answer: %v", got.err)
	}
	if now := d.wait(a.slot()); now.UID != r.UID {
		t.Error("another request was made")
	}
}

func TestCertifyIsDenied(t *testing.T) {
	d, g := newDesk(t)
	for name, approved := range map[string]bool{"denied": false, "failed, where somebody had approved it": true} {
		t.Run(name, func(t *testing.T) {
			a := d.applicant()
			answer := ask(t, g, a)
			r := d.wait(a.slot())
			if approved {
				if err := csr.Approve(t.Context(), d.manager, r, "Test", "by a person"); err != nil {
					t.Fatal(err)
				}
			}
			if err := csr.Refuse(t.Context(), d.manager, r, "TokenExpired", "the token has expired: ask for another"); err != nil {
				t.Fatal(err)
			}
			var denied *Denied
			if got := <-answer; !errors.As(got.err, &denied) || *denied != (Denied{"TokenExpired", "the token has expired: ask for another"}) {
				t.Errorf("got %v", got.err)
			}
		})
	}
}

func TestCertifyWhileTheSlotIsTaken(t *testing.T) {
	d, g := newDesk(t)
	a := d.applicant()
	otherKey, otherProof := a.inSlot(t), a // before anybody waits: finding that key takes thousands of others
	otherProof.proof = proofOf(t, "another hostname")
	answer := ask(t, g, a)
	d.wait(a.slot())
	for name, o := range map[string]applicant{"by another key": otherKey, "by the same key with another proof": otherProof} {
		if got := <-ask(t, g, o); !errors.Is(got.err, ErrSlotTaken) {
			t.Errorf("taken %s: %v", name, got.err)
		}
	}
	d.issue(d.wait(a.slot()), a.key.Public())
	if got := <-answer; got.err != nil {
		t.Error(got.err)
	}
}

func TestCertifyGoesOnWhenAskedAgain(t *testing.T) {
	d, g := newDesk(t)
	a := d.applicant()
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := g.Certify(short, a.spki, a.csr, a.proof); !errors.Is(err, ErrPending) {
		t.Fatalf("nobody has answered: %v", err)
	}
	r := d.wait(a.slot())
	want := d.issue(r, a.key.Public())
	if got := <-ask(t, g, a); got.err != nil || !bytes.Equal(got.der, want) {
		t.Error(got.err)
	}
}

// Whoever deletes a request that was not answered does not stop the enrolment.
func TestCertifyWhenTheRequestIsDeleted(t *testing.T) {
	d, g := newDesk(t)
	a := d.applicant()
	answer := ask(t, g, a)
	first := d.wait(a.slot())
	d.remove(first)
	var second *certv1.CertificateSigningRequest
	harness.Eventually(t, 5*time.Second, func() error {
		if second = d.wait(a.slot()); second.UID == first.UID {
			return errors.New("no other request was made")
		}
		return nil
	})
	want := d.issue(second, a.key.Public())
	if got := <-answer; got.err != nil || !bytes.Equal(got.der, want) {
		t.Error(got.err)
	}
}

// Many ask at once through two gateways, which must end in one request each.
func TestCertifyMany(t *testing.T) {
	d, g := newDesk(t)
	gateways := []*gateway{g, d.ready(d.gateway())}
	var asking sync.WaitGroup
	names := map[string]applicant{}
	for range 20 {
		a := d.applicant()
		if _, taken := names[a.slot()]; taken {
			continue
		}
		names[a.slot()] = a
		for i := range 4 {
			answer := ask(t, gateways[i%2], a)
			asking.Go(func() {
				if got := <-answer; got.err != nil {
					t.Error(got.err)
				}
			})
		}
	}
	for name, a := range names {
		d.issue(d.wait(name), a.key.Public())
	}
	asking.Wait()
}

// The fences of the account let nothing through that is too big; the error says so, and nothing hangs.
func TestCertifyOfTooMuch(t *testing.T) {
	d, g := newDesk(t)
	a := d.applicant()
	a.proof.Payload = bytes.Repeat([]byte("x"), 8<<10)
	if got := <-ask(t, g, a); got.err == nil || !strings.Contains(got.err.Error(), "8 KiB") {
		t.Errorf("got %v", got.err)
	}
}

func TestServingCertificate(t *testing.T) {
	d, g := newDesk(t)
	names := []string{"gateway.example.com", "192.0.2.7", "::1"}
	type served struct {
		cert tls.Certificate
		err  error
	}
	answer := make(chan served, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() {
		cert, err := g.ServingCertificate(ctx, names)
		answer <- served{cert, err}
	}()
	r := d.waitServing()
	der, err := csr.Request(r, certv1.UsageDigitalSignature, certv1.UsageServerAuth)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	if r.Name != identity.GatewaySlot(parsed.RawSubjectPublicKeyInfo) || len(r.Annotations) != 0 {
		t.Errorf("%s: %v", r.Name, r.Annotations)
	}
	issued, err := testCA().Issue(x509.Certificate{DNSNames: parsed.DNSNames, IPAddresses: parsed.IPAddresses}, parsed.PublicKey, time.Now())
	if err == nil {
		err = csr.Approve(t.Context(), d.manager, r, "Test", "by the test")
	}
	if err == nil {
		err = csr.Issue(t.Context(), d.manager, r, issued)
	}
	if err != nil {
		t.Fatal(err)
	}
	got := <-answer
	if got.err != nil {
		t.Fatal(got.err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(testCA().cert)
	for _, name := range names {
		if _, err := got.cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: name}); err != nil {
			t.Error(err)
		}
	}
	if k, ok := got.cert.PrivateKey.(*ecdsa.PrivateKey); !ok || !k.PublicKey.Equal(got.cert.Leaf.PublicKey) {
		t.Error("key and certificate do not belong together")
	}
	d.remove(r)
}

func TestServingCertificateIsDenied(t *testing.T) {
	d, g := newDesk(t)
	answer := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() {
		_, err := g.ServingCertificate(ctx, []string{"elsewhere.example.com"})
		answer <- err
	}()
	r := d.waitServing()
	if err := csr.Refuse(t.Context(), d.manager, r, "NameNotAllowed", "add it to --gateway-names"); err != nil {
		t.Fatal(err)
	}
	var denied *Denied
	if err := <-answer; !errors.As(err, &denied) || denied.Reason != "NameNotAllowed" {
		t.Errorf("got %v", err)
	}
}

// A certificate for another key, or none at all, is not served.
func TestServingPairMustFit(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, chain := range map[string]string{"another key's": string(pemOf(testCA().cert.Raw)), "nothing": "", "garbage": string(pemOf([]byte("x")))} {
		if _, err := servingPair(key, []byte(chain)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// While nobody asks for a certificate, nothing is written for one.
func TestNoRequestWithoutCertify(t *testing.T) {
	d, g := newDesk(t)
	e := d.enrol("laptop-1")
	g.Write(sample(d.known(g, e)))
	all := &certv1.CertificateSigningRequestList{}
	before := func() (names []string) {
		if err := d.manager.List(t.Context(), all); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		for _, r := range all.Items {
			names = append(names, r.Name+string(r.UID))
		}
		return names
	}
	had := fmt.Sprint(before())
	d.always(func() error {
		if now := fmt.Sprint(before()); now != had {
			return fmt.Errorf("%s, before %s", now, had)
		}
		return nil
	})
}
