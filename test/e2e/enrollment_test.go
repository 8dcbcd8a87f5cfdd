package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/wire"
	"github.com/rollcall-dev/rollcall/test/audit"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// TestEnrollment is what attackers and unlucky machines do with tokens. One system serves all of it.
func TestEnrollment(t *testing.T) {
	t.Parallel()
	s := startSystem(t, []string{"--token-hour=3s"}, []string{slowDownloads})

	t.Run("refusals", func(t *testing.T) { refusals(t, s) })
	t.Run("flood writes nothing", func(t *testing.T) { flood(t, s) })
	t.Run("replayed and lost", func(t *testing.T) { replayedAndLost(t, s) })
	t.Run("ten machines and one use", func(t *testing.T) { tenMachinesOneUse(t, s) })
	t.Run("a token for one endpoint", func(t *testing.T) { namedToken(t, s) })
	t.Run("an agent from the document alone", func(t *testing.T) { conformance(t, s) })
	t.Run("with curl", func(t *testing.T) { curl(t, s) })
	t.Run("as the documents tell", func(t *testing.T) { documented(t, s) })
}

// csrWrites counts the certificate requests that the gateway has made so far.
func csrWrites(t testing.TB, s *system) int {
	t.Helper()
	n := 0
	err := audit.Read(s.api.AuditLog, func(e audit.Event) {
		if e.Wrote() && e.By() == audit.Gateway && e.ObjectRef.Resource == "certificatesigningrequests" && strings.HasPrefix(e.ObjectRef.Name, "rollcall-agent-") {
			n++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func refusals(t *testing.T, s *system) {
	n := s.tenant(t, "good", "expired", "usedup")
	good := n.token(t, "good", "{expiresAfterHours: 0}")
	usedUp := n.token(t, "usedup", "{expiresAfterHours: 0, maxUses: 1}")
	expired := n.token(t, "expired", "{expiresAfterHours: 1}")

	first := newMachine(t, s.GatewayAddress, usedUp)
	if p := first.enroll(t, seal(t, usedUp.Key(), envelope.Enrollment, first.enrollment(t, "first"))); p != nil {
		t.Fatalf("the first use of a token for one: %v", p)
	}
	harness.Eventually(t, 10*time.Second, func() error { return conditionIs(n, t, "expired", "Usable", "False", "Expired") })
	harness.Eventually(t, 10*time.Second, func() error { return conditionIs(n, t, "usedup", "Usable", "False", "UsedUp") })

	before := csrWrites(t, s)
	tests := []struct {
		name  string
		token identity.Token
		alter func(m *machine, p *agentv1.Enrollment) *agentv1.Envelope
		want  wire.Name
	}{
		{name: "a token that nobody issued", token: good, want: wire.TokenUnknown, alter: func(m *machine, p *agentv1.Enrollment) *agentv1.Envelope {
			p.TokenUid = uuid.NewString()
			return seal(t, good.Key(), envelope.Enrollment, p)
		}},
		{name: "the key of another token", token: good, want: wire.ProofInvalid, alter: func(m *machine, p *agentv1.Enrollment) *agentv1.Envelope {
			_, key, _ := ed25519.GenerateKey(rand.Reader)
			return seal(t, key, envelope.Enrollment, p)
		}},
		{name: "a used-up token", token: usedUp, want: wire.TokenExhausted, alter: func(m *machine, p *agentv1.Enrollment) *agentv1.Envelope {
			return seal(t, usedUp.Key(), envelope.Enrollment, p)
		}},
		{name: "an expired token", token: expired, want: wire.TokenExpired, alter: func(m *machine, p *agentv1.Enrollment) *agentv1.Envelope {
			return seal(t, expired.Key(), envelope.Enrollment, p)
		}},
		{name: "made for another fleet", token: good, want: wire.ProofInvalid, alter: func(m *machine, p *agentv1.Enrollment) *agentv1.Envelope {
			p.FleetId = uuid.NewString()
			return seal(t, good.Key(), envelope.Enrollment, p)
		}},
		{name: "the request altered on the way", token: good, want: wire.ProofInvalid, alter: func(m *machine, p *agentv1.Enrollment) *agentv1.Envelope {
			e := seal(t, good.Key(), envelope.Enrollment, p)
			p.Csr = newCSR(t, newKey(t))
			e.Payload = seal(t, good.Key(), envelope.Enrollment, p).Payload
			return e
		}},
		{name: "another payload type", token: good, want: wire.Malformed, alter: func(m *machine, p *agentv1.Enrollment) *agentv1.Envelope {
			return seal(t, good.Key(), envelope.Renewal, p)
		}},
		{name: "a damaged certificate request", token: good, want: wire.CSRInvalid, alter: func(m *machine, p *agentv1.Enrollment) *agentv1.Envelope {
			p.Csr[len(p.Csr)-1] ^= 1
			return seal(t, good.Key(), envelope.Enrollment, p)
		}},
	}
	for _, tt := range tests {
		m := newMachine(t, s.GatewayAddress, tt.token)
		p := m.enroll(t, tt.alter(m, m.enrollment(t, "mallory")))
		if p == nil || p.Name != tt.want {
			t.Errorf("%s: got %v, want %s", tt.name, p, tt.want)
			continue
		}
		if p.Detail == "" {
			t.Errorf("%s: the problem says nothing to people", tt.name)
		}
		t.Logf("%-32s %s: %s", tt.name, p.Name, p.Detail)
	}
	foreign := good
	foreign.RootPin[0] ^= 1 // of a fleet with another root: what the agent meets is, for it, a fake gateway
	a := s.startAgent(t, "foreign", foreign.Reveal())
	harness.Eventually(t, 15*time.Second, func() error {
		out, code := a.cytool(t, "status")
		if code != 1 || !strings.Contains(out, "pin") {
			return errNot{out, "the refusal of a server with another root"}
		}
		t.Logf("the real agent with a token of another fleet:\n%s", out)
		return nil
	})
	if after := csrWrites(t, s); after != before {
		t.Errorf("refused enrolments caused %d API writes", after-before)
	}
	if got := len(n.endpoints(t)); got != 1 {
		t.Errorf("%d endpoints, want the first machine's alone", got)
	}
}

func conditionIs(n *tenant, t testing.TB, token, kind, status, reason string) error {
	ept := get[v1alpha1.EnrollmentToken](t, n, token)
	for _, c := range ept.Status.Conditions {
		if c.Type == kind && string(c.Status) == status && c.Reason == reason {
			return nil
		}
	}
	return errNot{token, kind + "=" + status + "/" + reason}
}

type errNot struct{ what, state string }

func (e errNot) Error() string { return e.what + " is not " + e.state }

// flood sends 10,000 enrolments that nobody has signed, and asks the audit log what they cost.
func flood(t *testing.T, s *system) {
	n := s.tenant(t, "door")
	token := n.token(t, "door", "{expiresAfterHours: 0}")
	before := gatewayWrites(t, s)
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	m := newMachine(t, s.GatewayAddress, token)
	e := seal(t, stranger, envelope.Enrollment, m.enrollment(t, "flood"))
	answers := map[int]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			client := m.keptClient()
			defer client.CloseIdleConnections()
			for range 1250 {
				status, _, err := m.tryOn(t.Context(), client, http.MethodPost, wire.PathEnroll, &agentv1.EnrollRequest{Enrollment: e}, nil)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				answers[status]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("10,000 unauthenticated enrolments were answered %v", answers)
	for status := range answers {
		if status != http.StatusForbidden && status != http.StatusTooManyRequests {
			t.Errorf("%d of them were answered %d", answers[status], status)
		}
	}
	if after := gatewayWrites(t, s); after != before {
		t.Errorf("they caused %d API writes, want none", after-before)
	}
	honest := newMachine(t, s.GatewayAddress, token)
	if p := honest.enroll(t, seal(t, token.Key(), envelope.Enrollment, honest.enrollment(t, "honest"))); p != nil {
		t.Errorf("after the flood an honest machine is refused: %v", p)
	}
}

// gatewayWrites counts all that the gateway wrote so far, its Lease's renewals apart.
func gatewayWrites(t testing.TB, s *system) int {
	t.Helper()
	n := 0
	if err := audit.Read(s.api.AuditLog, func(e audit.Event) {
		if e.Wrote() && e.By() == audit.Gateway && e.ObjectRef.Resource != "leases" {
			n++
		}
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// replayedAndLost repeats one enrolment, as machines do whose answer was lost and as eavesdroppers do: it stays one Endpoint and one use.
func replayedAndLost(t *testing.T, s *system) {
	n := s.tenant(t, "once")
	token := n.token(t, "once", "{expiresAfterHours: 0, maxUses: 1}")
	m := newMachine(t, s.GatewayAddress, token)
	e := seal(t, token.Key(), envelope.Enrollment, m.enrollment(t, "replayed"))
	for range 3 {
		// hung up on before the answer can come
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, _, _ = m.try(ctx, http.MethodPost, wire.PathEnroll, &agentv1.EnrollRequest{Enrollment: e}, nil)
		cancel()
	}
	for i := range 3 {
		if p := m.enroll(t, e); p != nil {
			t.Fatalf("repetition %d: %v", i+1, p)
		}
		harness.Eventually(t, 10*time.Second, func() error { return nothingInSlot(t, s, m) })
	}
	if got := uses(t, n, "once"); got != 1 {
		t.Errorf("the token counts %d uses, want 1", got)
	}
	if got := len(n.endpoints(t)); got != 1 {
		t.Errorf("%d endpoints, want 1", got)
	}
	// what a replay yields is good for the same key alone
	thief := &machine{address: m.address, token: token, trust: m.trust, key: newKey(t)}
	if p := thief.enroll(t, e); p != nil {
		t.Fatalf("replay: %v", p)
	}
	if resp, err := thief.client().Get("https://" + m.address + wire.PathTrust); err == nil {
		_ = resp.Body.Close()
		t.Error("a thief could use a certificate that was made for another key")
	}
}

// tenMachinesOneUse: a token for one use, tried by ten machines at once, lets one in.
func tenMachinesOneUse(t *testing.T, s *system) {
	n := s.tenant(t, "one")
	token := n.token(t, "one", "{expiresAfterHours: 0, maxUses: 1}")
	var wg sync.WaitGroup
	var mu sync.Mutex
	in, refused := 0, map[wire.Name]int{}
	for i := range 10 {
		wg.Go(func() {
			m := newMachine(t, s.GatewayAddress, token)
			p := m.enroll(t, seal(t, token.Key(), envelope.Enrollment, m.enrollment(t, "machine-"+string(rune('a'+i)))))
			mu.Lock()
			defer mu.Unlock()
			if p == nil {
				in++
			} else {
				refused[p.Name]++
			}
		})
	}
	wg.Wait()
	if in != 1 || refused[wire.TokenExhausted] != 9 {
		t.Errorf("%d got in, the others were told %v; want 1, and 9 times %s", in, refused, wire.TokenExhausted)
	}
	if got := len(n.endpoints(t)); got != 1 {
		t.Errorf("%d endpoints, want 1", got)
	}
	if got := uses(t, n, "one"); got != 1 {
		t.Errorf("the token counts %d uses, want 1", got)
	}
}

// namedToken: a token with endpointName brings a re-imaged machine back to its Endpoint, under a new identity.
func namedToken(t *testing.T, s *system) {
	n := s.tenant(t, "kiosk")
	token := n.token(t, "kiosk", "{expiresAfterHours: 0, endpointName: kiosk-7}")
	var ids []string
	var machines []*machine
	for range 2 {
		m := newMachine(t, s.GatewayAddress, token)
		if p := m.enroll(t, seal(t, token.Key(), envelope.Enrollment, m.enrollment(t, "whatever"))); p != nil {
			t.Fatal(p)
		}
		fep := get[v1alpha1.Endpoint](t, n, "kiosk-7")
		ids = append(ids, fep.Status.Identity.ID)
		machines = append(machines, m)
	}
	if ids[0] == ids[1] {
		t.Error("the second machine got its predecessor's identity")
	}
	harness.Eventually(t, 5*time.Second, func() error {
		if _, p := machines[0].beat(t, heartbeat(strings.Repeat("a", 32), 1)); p == nil {
			return errNot{"the first machine", "refused"}
		}
		return nil
	})
	if _, p := machines[1].beat(t, heartbeat(strings.Repeat("b", 32), 1)); p != nil {
		t.Errorf("the machine that enrolled last is refused: %v", p)
	}
}

// nothingInSlot tells whether the certificate request of a machine's key has been cleared away.
func nothingInSlot(t testing.TB, s *system, m *machine) error {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(m.key.Public())
	if err != nil {
		return err
	}
	slot := identity.AgentSlot(spki)
	if out := s.api.Kubectl(t, "get", "csr", slot, "--ignore-not-found", "-o", "name"); out != "" {
		return errNot{slot, "gone"}
	}
	return nil
}
