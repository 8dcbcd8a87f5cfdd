package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/wire"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// TestLifecycle takes one machine through everything that can happen to its identity. Each has its own problem document, its own words in
// cytool, and none makes the agent throw its identity away.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	s := startSystem(t, []string{"--previous-key-lifetime=1s", "--renewal-grace=2h"}, nil)
	n := s.tenant(t, "laptops")
	text := n.tokenText(t, "laptops", "{expiresAfterHours: 0}")
	n.Apply(t, `{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: fast}, spec: {heartbeat: {intervalSeconds: 1}}}`)
	a := s.startAgent(t, "laptop", text)
	name := firstEndpoint(t, n)
	n.endpointIs(t, name, "Online", 20*time.Second)

	t.Run("lifecycles", func(t *testing.T) { lifecycles(t, n, a, name) })
	t.Run("certificates", func(t *testing.T) { certificates(t, s, n, a, name) })
	t.Run("revoked on an open connection", func(t *testing.T) { revokedOpen(t, s, n, text) })
	t.Run("superseded", func(t *testing.T) { superseded(t, s, n, text) })
	t.Run("cloned", func(t *testing.T) { cloned(t, s, n, text) })
	t.Run("deleted", func(t *testing.T) {
		// a certificate that is a minute old: of a younger one a gateway may not have heard yet, and says so
		older(t, s, a)
		before := identityFiles(t, a)
		n.Kubectl(t, "delete", "fep", name)
		expectStatus(t, a, "endpoint-unknown", "deleted")
		sameIdentity(t, a, before)
	})
}

func firstEndpoint(t testing.TB, n *tenant) string {
	t.Helper()
	var name string
	harness.Eventually(t, 30*time.Second, func() error {
		for _, e := range n.endpoints(t) {
			name = e.Name
			return nil
		}
		return errNot{"any endpoint", "there"}
	})
	return name
}

// expectStatus waits until the last answer that cytool shows is this problem, in words that hold word.
func expectStatus(t testing.TB, a *realAgent, problem, word string) {
	t.Helper()
	harness.Eventually(t, 15*time.Second, func() error {
		_, _ = a.cytool(t, "checkin")
		out, _ := a.cytool(t, "status")
		asJSON, _ := a.cytool(t, "status", "-o", "json")
		if !strings.Contains(asJSON, problem) || !strings.Contains(strings.ToLower(out), word) {
			return errNot{fmt.Sprintf("cytool status\n%s", out), problem + ", with the word " + word}
		}
		t.Logf("%s:\n%s", problem, out)
		return nil
	})
}

func identityFiles(t testing.TB, a *realAgent) []byte {
	t.Helper()
	var all []byte
	for _, f := range []string{"identity/agent.crt", "identity/agent.key"} {
		b, err := os.ReadFile(filepath.Join(a.dir, f))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

func sameIdentity(t testing.TB, a *realAgent, before []byte) {
	t.Helper()
	if !bytes.Equal(before, identityFiles(t, a)) {
		t.Error("the agent has changed its identity's files")
	}
}

func (n *tenant) setLifecycle(t testing.TB, name, lifecycle string) {
	t.Helper()
	n.Kubectl(t, "patch", "fep", name, "--type=merge", "-p", `{"spec":{"lifecycle":"`+lifecycle+`"}}`)
}

func lifecycles(t *testing.T, n *tenant, a *realAgent, name string) {
	before := identityFiles(t, a)
	for _, lifecycle := range []string{"Suspended", "Blocked", "Decommissioned"} {
		n.setLifecycle(t, name, lifecycle)
		n.endpointIs(t, name, lifecycle, 10*time.Second)
		expectStatus(t, a, "endpoint-"+strings.ToLower(lifecycle), strings.ToLower(lifecycle))
		n.setLifecycle(t, name, "Active")
		harness.Eventually(t, 15*time.Second, func() error {
			if out, code := a.cytool(t, "checkin"); code != 0 {
				return errNot{"checkin: " + out, "accepted"}
			}
			return nil
		})
		n.endpointIs(t, name, "Online", 10*time.Second)
	}
	sameIdentity(t, a, before)
}

// forge signs a certificate for an identity with the fleet's own agent CA, which only the test's administrator can read, or with one of
// its own, to see what the gateway makes of certificates that the manager would not have issued today.
func forge(t testing.TB, s *system, key *ecdsa.PrivateKey, name *url.URL, from, until time.Time, ownCA bool) []byte {
	t.Helper()
	caCert, caKey := agentCA(t, s)
	if ownCA {
		caKey = newKey(t)
		self := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: caCert.Subject, NotBefore: from, NotAfter: until.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
		der, err := x509.CreateCertificate(rand.Reader, self, self, caKey.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		if caCert, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
	id := strings.TrimPrefix(name.Path, "/endpoint/")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: id}, URIs: []*url.URL{name},
		NotBefore: from, NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, caCert, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func agentCA(t testing.TB, s *system) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	part := func(key string) []byte {
		b, err := base64.StdEncoding.DecodeString(s.api.Kubectl(t, "-n", "rollcall-system", "get", "secret", "rollcall-agent-ca", "-o", `jsonpath={.data.tls\.`+key+`}`))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	pair, err := tls.X509KeyPair(part("crt"), part("key"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return cert, pair.PrivateKey.(*ecdsa.PrivateKey)
}

// certificates: what the agent and a client by hand are told about a certificate that is expired, not yet valid, or of an unknown CA.
func certificates(t *testing.T, s *system, n *tenant, a *realAgent, name string) {
	key, good := a.identity(t)
	now := time.Now()
	for _, tt := range []struct {
		problem, word string
		from, until   time.Time
		ownCA, renews bool
	}{
		{problem: "certificate-not-yet-valid", word: "not yet valid", from: now.Add(time.Hour), until: now.Add(720 * time.Hour)},
		{problem: "certificate-unknown", word: "unknown", from: now.Add(-time.Hour), until: now.Add(720 * time.Hour), ownCA: true},
		{problem: "certificate-expired", word: "expired", from: now.Add(-48 * time.Hour), until: now.Add(-time.Hour), renews: true},
	} {
		der := forge(t, s, key, good.URIs[0], tt.from, tt.until, tt.ownCA)
		m := &machine{address: s.GatewayAddress, key: key, cert: der, trust: trustOf(t, s, n)}
		if _, p := m.beat(t, heartbeat(strings.Repeat("c", 32), 1)); p == nil || string(p.Name) != tt.problem {
			t.Errorf("a heartbeat with such a certificate is answered %v, want %s", p, tt.problem)
		}
		a.restartWith(t, der)
		if !tt.renews {
			expectStatus(t, a, tt.problem, tt.word)
			a.restartWith(t, good.Raw)
		}
		since := time.Now()
		harness.Eventually(t, 20*time.Second, func() error {
			e := get[v1alpha1.Endpoint](t, n, name)
			if out, code := a.cytool(t, "checkin"); code != 0 {
				return errNot{"checkin: " + out, "accepted"}
			}
			if tt.renews && (e.Status.Identity.CertificateExpirationTime == nil || e.Status.Identity.CertificateExpirationTime.Time.Before(since.Add(time.Hour))) {
				return errNot{"the certificate", "renewed"}
			}
			return nil
		})
		if got := get[v1alpha1.Endpoint](t, n, name).Status.Identity.ID; !strings.HasSuffix(good.URIs[0].Path, got) {
			t.Errorf("after %s the endpoint has another identity", tt.problem)
		}
	}
}

// identity is what the agent has on disk.
func (a *realAgent) identity(t testing.TB) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(a.dir, "identity/agent.crt"), filepath.Join(a.dir, "identity/agent.key"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return pair.PrivateKey.(*ecdsa.PrivateKey), cert
}

// restartWith starts the agent anew with another certificate for its key.
func (a *realAgent) restartWith(t testing.TB, der []byte) {
	t.Helper()
	a.Stop(5 * time.Second)
	if err := os.WriteFile(filepath.Join(a.dir, "identity/agent.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	a.start(t)
}

// older gives the agent a good certificate that was issued an hour ago.
func older(t testing.TB, s *system, a *realAgent) {
	t.Helper()
	key, cert := a.identity(t)
	a.restartWith(t, forge(t, s, key, cert.URIs[0], time.Now().Add(-time.Hour), cert.NotAfter, false))
}

// trustOf is what a token of the tenant leads to.
func trustOf(t testing.TB, s *system, n *tenant) *identity.Trust {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(n.Kubectl(t, "get", "secret", "laptops-token", "-o", "jsonpath={.data.token}"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := identity.ParseToken(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return newMachine(t, s.GatewayAddress, token).trust
}

func (s *system) enrolled(t testing.TB, text, hostname string) *machine {
	t.Helper()
	token, err := identity.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, s.GatewayAddress, token)
	if p := m.enroll(t, seal(t, token.Key(), envelope.Enrollment, m.enrollment(t, hostname))); p != nil {
		t.Fatal(p)
	}
	return m
}

// revokedOpen: a machine that is blocked is refused within seconds, also on the connection that it has open.
func revokedOpen(t *testing.T, s *system, n *tenant, text string) {
	m := s.enrolled(t, text, "revoked")
	kept := m.keptClient()
	defer kept.CloseIdleConnections()
	hb := heartbeat(strings.Repeat("d", 32), 1)
	keptBeat := func() (int, error) {
		status, _, err := m.tryOn(t.Context(), kept, http.MethodPost, wire.PathHeartbeat, hb, nil)
		return status, err
	}
	if status, err := keptBeat(); err != nil || status != http.StatusOK {
		t.Fatalf("heartbeat: %d %v, want 200", status, err)
	}
	n.setLifecycle(t, "revoked", "Blocked")
	since := time.Now()
	harness.Eventually(t, 3*time.Second, func() error {
		if status, _ := keptBeat(); status != http.StatusForbidden {
			return errNot{fmt.Sprintf("status %d", status), "403"}
		}
		return nil
	})
	t.Logf("refused on its open connection %d ms after kubectl patch returned", time.Since(since).Milliseconds())
}

// superseded: a copy of an identity from before its renewal is refused with words of its own, and people see the conflict.
func superseded(t *testing.T, s *system, n *tenant, text string) {
	m := s.enrolled(t, text, "restored")
	old := *m
	cert, err := x509.ParseCertificate(m.cert)
	if err != nil {
		t.Fatal(err)
	}
	_, id, err := identity.ParseURI(cert)
	if err != nil {
		t.Fatal(err)
	}
	renewal := func(m *machine, key *ecdsa.PrivateKey) *agentv1.Envelope {
		return seal(t, m.key, envelope.Renewal, &agentv1.Renewal{
			FleetId: m.trust.FleetID, IdentityId: id, Certificate: m.cert, Csr: newCSR(t, key), CreatedAt: timestamppb.Now(),
		})
	}
	first, second := newKey(t), newKey(t)
	for _, key := range []*ecdsa.PrivateKey{first, second} {
		e, lost := renewal(m, key), *m
		if p := lost.renew(t, e); p != nil {
			t.Fatal(p)
		}
		// as if that reply were lost: the same renewal is answered again
		if p := m.renew(t, e); p != nil {
			t.Fatalf("the same renewal again: %v", p)
		}
		m.key = key
	}
	// a minute old, for of a younger one a gateway may not have heard yet
	old.cert = forge(t, s, old.key, cert.URIs[0], time.Now().Add(-time.Hour), cert.NotAfter, false)
	harness.Eventually(t, 10*time.Second, func() error {
		if _, p := old.beat(t, heartbeat(strings.Repeat("e", 32), 1)); p == nil || p.Name != wire.CertificateSuperseded {
			return errNot{fmt.Sprint(p), "certificate-superseded"}
		}
		return nil
	})
	if p := old.renew(t, renewal(&old, newKey(t))); p == nil || p.Name != wire.CertificateSuperseded {
		t.Errorf("a renewal with a key from before is answered %v, want certificate-superseded", p)
	}
	n.endpointIs(t, "restored", "Conflict", 10*time.Second)
	t.Log(n.Kubectl(t, "get", "fep", "restored"))
	if _, p := m.beat(t, heartbeat(strings.Repeat("f", 32), 1)); p != nil {
		t.Errorf("the machine with the newest key is refused: %v", p)
	}
}

// cloned: two machines with one identity are found by epoch and instance, shown, and sorted out by a person.
func cloned(t *testing.T, s *system, n *tenant, text string) {
	m := s.enrolled(t, text, "twin")
	one, other := heartbeat(strings.Repeat("1", 32), 7), heartbeat(strings.Repeat("2", 32), 7)
	if _, p := m.beat(t, one); p != nil {
		t.Fatal(p)
	}
	harness.Eventually(t, 10*time.Second, func() error {
		_, p := m.beat(t, other)
		if p == nil || p.Name != wire.IdentityConflict {
			return errNot{fmt.Sprint(p), "identity-conflict"}
		}
		return nil
	})
	n.endpointIs(t, "twin", "Conflict", 10*time.Second)
	t.Log(n.Kubectl(t, "get", "fep", "twin"))
	n.Kubectl(t, "annotate", "fep", "twin", "rollcall.dev/accept-instance="+other.Agent.InstanceId)
	harness.Eventually(t, 10*time.Second, func() error {
		if _, p := m.beat(t, other); p != nil {
			return p
		}
		return nil
	})
	n.endpointIs(t, "twin", "Online", 10*time.Second)
	harness.Eventually(t, 10*time.Second, func() error {
		if _, p := m.beat(t, one); p == nil || p.Name != wire.IdentityConflict {
			return errNot{fmt.Sprint(p), "identity-conflict"}
		}
		return nil
	})
	n.endpointIs(t, "twin", "Online", 10*time.Second)
}
