package agent

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// same tells whether all bodies are one.
func same(bodies [][]byte) bool {
	for _, b := range bodies {
		if !bytes.Equal(b, bodies[0]) {
			return false
		}
	}
	return true
}

// An answer that is lost, or that does not come yet, or a process that dies meanwhile: the same request is sent to the letter, and there is
// one identity.
func TestEnrolmentIsRepeatedToTheLetter(t *testing.T) {
	for name, bend := range map[string]fleettest.Answer{
		"lost after it was done": fleettest.Lose,
		"lost on the way":        func(http.ResponseWriter, *http.Request, http.HandlerFunc) { panic(http.ErrAbortHandler) },
		"accepted":               fleettest.Accept(2 * time.Second),
		"manager away":           fleettest.Refuse(&wire.Problem{Name: wire.NotReady, RetryAfter: time.Second}),
	} {
		for _, crash := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				w.gateway.Next(wire.PathEnroll, bend, bend, bend)
				for range 3 {
					w.Step(t.Context())
					if w.certificate() != "" {
						t.Fatal("an identity from nowhere")
					}
					if crash {
						w.crash()
					} else {
						w.machine.pass(10 * time.Second)
					}
				}
				w.online()
				if got := w.gateway.Requests(wire.PathEnroll); !same(got) || w.gateway.Enrolled() != 1 {
					t.Errorf("%d identities; requests equal: %t", w.gateway.Enrolled(), same(got))
				}
			})
		}
	}
}

// The process dies after each step of its life: one identity, an epoch for each start, and it gets on.
func TestCrashAfterEachStep(t *testing.T) {
	w := newWorld(t)
	lose := []fleettest.Answer{fleettest.Lose, fleettest.Lose}
	w.gateway.Next(wire.PathTrust, lose...)
	w.gateway.Next(wire.PathEnroll, lose...)
	w.gateway.Next(wire.PathHeartbeat, lose...)
	starts := uint64(0)
	for range 10 {
		w.live(20 * time.Second)
		starts++
		if got := w.kept.GetEpoch(); got != starts {
			t.Errorf("start %d has epoch %d", starts, got)
		}
		w.crash()
	}
	w.online()
	if w.gateway.Enrolled() != 1 {
		t.Errorf("%d identities", w.gateway.Enrolled())
	}
	seen := map[string]uint64{}
	for _, b := range w.gateway.Beats() {
		if e, ok := seen[b.GetAgent().GetInstanceId()]; ok && e != b.GetAgent().GetEpoch() {
			t.Errorf("one instance with epochs %d and %d", e, b.GetAgent().GetEpoch())
		}
		seen[b.GetAgent().GetInstanceId()] = b.GetAgent().GetEpoch()
	}
}

// The files that can be damaged, one by one, on an enrolled machine: it says so, and is online again without a person, but for the identity.
func TestDamagedStateHeals(t *testing.T) {
	for file, want := range map[string]string{"state": "Online", "root.pin": "Offline", "identity/agent.key": "NotEnrolled"} {
		t.Run(file, func(t *testing.T) {
			w := newWorld(t)
			w.online()
			epoch := w.kept.GetEpoch()
			if err := os.WriteFile(filepath.Join(w.path, file), []byte("damage"), 0o600); err != nil {
				t.Fatal(err)
			}
			w.crash()
			w.live(time.Minute)
			s := w.Status()
			if s.State != want || len(s.Damaged) == 0 {
				t.Errorf("state %s, want %s; damaged %q; problems %v", s.State, want, s.Damaged, s.Problems)
			}
			if file == "state" && w.kept.GetEpoch() <= epoch {
				t.Errorf("epoch %d after %d: the fleet would take this for a clone", w.kept.GetEpoch(), epoch)
			}
		})
	}
}

// A disk that takes nothing: an agent that runs goes on, one that starts contacts nobody before its start is counted.
func TestUnwritableDisk(t *testing.T) {
	w := newWorld(t)
	w.online()
	blocked := filepath.Join(w.path, "state.tmp")
	if err := os.MkdirAll(filepath.Join(blocked, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.live(10 * time.Minute)
	w.expect("Online", "state-unwritable")
	w.crash()
	beats := len(w.gateway.Beats())
	w.live(time.Hour)
	if s := w.Status(); s.State != "Starting" || len(w.gateway.Beats()) != beats {
		t.Errorf("state %s, %d heartbeats with an epoch that is not on disk", s.State, len(w.gateway.Beats())-beats)
	}
	if err := os.RemoveAll(blocked); err != nil {
		t.Fatal(err)
	}
	w.live(10 * time.Minute)
	w.expect("Online")
}
