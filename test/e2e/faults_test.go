package e2e

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// faultPoints are the writes of an enrolment after which the manager is killed.
var faultPoints = []string{"claim", "endpoint", "settlement", "approval", "signature"}

// managerKilledAtEachStep: whatever the manager was doing when it was killed, one machine is one Endpoint and one use of its token.
func managerKilledAtEachStep(t *testing.T, s *system) {
	n := s.tenant(t, "once")
	token := n.token(t, "once", "{expiresAfterHours: 0}")
	for i, point := range faultPoints {
		s.manager.Stop(5 * time.Second)
		faulty := s.startFaulty(t, point)
		m := newMachine(t, s.GatewayAddress, token)
		e := seal(t, token.Key(), envelope.Enrollment, m.enrollment(t, "victim-"+string(rune('a'+i))))
		answered := make(chan error, 1)
		go func() {
			if p := m.enroll(t, e); p != nil {
				answered <- p
				return
			}
			answered <- nil
		}()
		select {
		case <-faulty.Done():
		case <-time.After(20 * time.Second):
			t.Fatalf("the manager has never written the %s", point)
		}
		s.startManager(t)
		if err := <-answered; err != nil {
			t.Errorf("killed after %q: %v", point, err)
			continue
		}
		if got := len(n.endpoints(t)); got != i+1 {
			t.Errorf("killed after %q: %d endpoints, want %d", point, got, i+1)
		}
		harness.Eventually(t, 5*time.Second, func() error {
			if got := uses(t, n, "once"); got != int32(i+1) {
				return errNot{point, "one use"}
			}
			return nil
		})
		beats(t, m)
		t.Logf("killed after %-18q one endpoint, one use, a certificate", point)
	}
}

// faulty is the system with a manager that kills itself after a write.
func faulty(t testing.TB, s local.System, point string) local.System {
	t.Helper()
	file := filepath.Join(t.TempDir(), "fault")
	if err := faults.Arm(file, faults.Order{Point: faults.Point(faults.WhenAfter, point)}); err != nil {
		t.Fatal(err)
	}
	s.ManagerProgram = "rollcall-manager-faults"
	s.ManagerArgs = append(append([]string{}, s.ManagerArgs...), "--fault-file="+file)
	return s
}

// startFaulty starts such a manager.
func (s *system) startFaulty(t testing.TB, point string) *local.Process {
	t.Helper()
	p, err := faulty(t, s.System, point).StartManager(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// beats sends a heartbeat that must be accepted, once the gateway has seen what the manager wrote.
func beats(t testing.TB, m *machine) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, func() error {
		if _, p := m.beat(t, heartbeat(instanceOf(m), 1)); p != nil {
			return p
		}
		return nil
	})
}

// instanceOf makes an instance ID of a machine's own.
func instanceOf(m *machine) string {
	return identity.KeyHash(m.cert)[:32]
}

// managerKilledInKeyCeremony: a manager that is killed while it makes the fleet's keys leaves the rest to the next one.
func managerKilledInKeyCeremony(t *testing.T) {
	s, err := newControlPlane(t.Context(), t.TempDir(), harness.Bin(t), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	for _, secret := range []string{"rollcall-root-key", "rollcall-order-key", "rollcall-agent-ca", "rollcall-server-ca", "rollcall-token-key"} {
		if p, err := faulty(t, s.System, secret).StartManager(t.Context()); err == nil {
			p.Kill()
			t.Fatalf("the manager has never made the Secret %s", secret)
		}
	}
	s.startManager(t)
	s.startGateway(t)
	n := s.tenant(t, "after")
	m := s.enrolled(t, n.tokenText(t, "after", "{expiresAfterHours: 0}"), "after")
	beats(t, m)
}

// TestManagerKilled kills the manager at every step of what it must do once.
func TestManagerKilled(t *testing.T) {
	t.Parallel()
	t.Run("while it makes the fleet's keys", managerKilledInKeyCeremony)
	t.Run("while it enrols", func(t *testing.T) { managerKilledAtEachStep(t, startSystem(t, nil, nil)) })
}
