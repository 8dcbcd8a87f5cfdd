package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

const policyID = "aaaaaaaa-2b1c-4d53-8a64-1e6a3f1f6b02"

// obeys makes the gateway send an assignment and a policy.
func (w *world) orders(revision uint64, interval time.Duration) {
	at := w.machine.now()
	w.gateway.SetOrders(func(id string) []*agentv1.Envelope {
		return []*agentv1.Envelope{w.fleet.Policy(policyID, revision, interval), w.fleet.Assignment(id, policyID, at)} // not in their order
	})
}

// A policy sets the interval, is reported at once, and is still obeyed by the next process before that has heard anything.
func TestPolicyIsObeyed(t *testing.T) {
	w := newWorld(t)
	w.orders(3, 20*time.Second)
	w.online()
	beats := w.gateway.Beats()
	if len(beats) < 2 || beats[1].GetPolicyId() != policyID || beats[1].GetPolicyRevision() != 3 || beats[1].GetAssignmentIssuedAt() == nil {
		t.Fatalf("the second of %d heartbeats does not report the policy", len(beats))
	}
	if gap := beats[1].GetSentAt().AsTime().Sub(beats[0].GetSentAt().AsTime()); gap > time.Second {
		t.Errorf("the new policy was reported after %s", gap)
	}
	w.gateway.Stop()
	w.crash()
	w.Step(t.Context())
	if s := w.Status(); s.Policy.ID != policyID || s.Policy.HeartbeatIntervalSeconds != 20 || s.Endpoint.Namespace != "fleet" {
		t.Errorf("after a restart it obeys %+v in %q", s.Policy, s.Endpoint.Namespace)
	}
	w.gateway.Start(w.fleet.ServerCA, fleettest.Serving(noon, noon.Add(day)))
	w.orders(2, time.Second) // an older one is no way back
	w.online()
	if last := w.gateway.LastBeat(); last.GetPolicyRevision() != 3 || last.GetRejectedOrders() == 0 || last.GetLastRejection() != "policy: Superseded" {
		t.Errorf("revision %d, %d refused, %q", last.GetPolicyRevision(), last.GetRejectedOrders(), last.GetLastRejection())
	}
	w.orders(4, 40*time.Second)
	before := len(w.gateway.Beats())
	w.live(400 * time.Second)
	if n := len(w.gateway.Beats()) - before; n < 10 || n > 13 {
		t.Errorf("%d heartbeats in 400s at an interval of 40s", n)
	}
}

// Just after an enrolment the gateway may not know the policy yet: the agent does not wait for an interval that it was never given.
func TestPolicyComesLate(t *testing.T) {
	w := newWorld(t)
	w.gateway.SetOrders(func(string) []*agentv1.Envelope { return nil })
	w.live(4 * time.Second)
	w.expect("Online")
	if n := len(w.gateway.Beats()); n < 2 || n > 4 {
		t.Errorf("%d heartbeats in the first 4s", n)
	}
	w.orders(1, 20*time.Second)
	w.live(15 * time.Second)
	if s := w.Status(); s.Policy.HeartbeatIntervalSeconds != 20 {
		t.Errorf("policy %+v", s.Policy)
	}
	w = newWorld(t)
	w.gateway.SetOrders(func(string) []*agentv1.Envelope { return nil })
	w.live(time.Hour)
	if n := len(w.gateway.Beats()); n < 15 || n > 25 {
		t.Errorf("%d heartbeats in an hour without any assignment", n)
	}
}

// A gateway that keeps saying more is answered at once, ten times and not for ever.
func TestMoreIsBounded(t *testing.T) {
	w := newWorld(t)
	w.gateway.SetReply(func(r *agentv1.HeartbeatReply) { r.More = true })
	w.live(time.Minute)
	if n := len(w.gateway.Beats()); n != maxStreak+1 {
		t.Errorf("%d heartbeats in a minute, want %d", n, maxStreak+1)
	}
}

// Orders by somebody else's key are refused and told, and trust is asked for once per beacon, not once per order.
func TestForgedOrdersAreRefused(t *testing.T) {
	w := newWorld(t)
	w.online()
	forger := *fleettest.New(t, w.machine.now)
	forger.ID = w.fleet.ID
	asked := len(w.gateway.Requests(wire.PathTrust))
	w.gateway.SetOrders(func(id string) []*agentv1.Envelope {
		return []*agentv1.Envelope{forger.Assignment(id, policyID, noon), forger.Policy(policyID, 9, time.Second)}
	})
	w.live(5 * time.Minute)
	w.expect("Online")
	s := w.Status()
	if s.Orders.Rejected != 2 || s.Orders.LastRejection != "policy: SignatureInvalid" || s.Policy.ID != "" {
		t.Errorf("orders %+v, policy %+v", s.Orders, s.Policy)
	}
	if got := len(w.gateway.Requests(wire.PathTrust)) - asked; got != 1 {
		t.Errorf("asked for trust %d times", got)
	}
}

func newOrderKey(t *testing.T, f *fleettest.Fleet) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f.Order = key
}

// Every key of the fleet changes, one after the other and while the agent is off: it follows from the pin.
func TestTrustRotates(t *testing.T) {
	w := newWorld(t)
	w.online()
	newOrderKey(t, w.fleet)
	w.fleet.Publish(w.fleet.Root, nil)
	w.orders(1, time.Minute)
	w.live(6 * time.Minute)
	if s := w.Status(); s.State != "Online" || s.Trust.Version != 2 || s.Policy.ID != policyID || s.Orders.Rejected != 0 {
		t.Errorf("after the order key changed: %s, trust %+v, policy %+v, orders %+v", s.State, s.Trust, s.Policy, s.Orders)
	}

	for range 20 { // roots, more than one answer carries
		old := w.fleet.Root
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		w.fleet.Root = key
		w.fleet.Publish(old, nil)
	}
	w.fleet.ServerCA = fleettest.NewCA(t, "next servers")
	w.fleet.Publish(w.fleet.Root, nil)
	w.gateway.Stop()
	w.crash()
	w.gateway.Start(w.fleet.ServerCA, fleettest.Serving(noon, noon.Add(day)))
	w.live(20 * time.Minute) // the first try finds a server of an unknown CA
	w.expect("Online")
	if s := w.Status(); s.Trust.Version != 23 {
		t.Errorf("trust %+v", s.Trust)
	}
	w.crash()
	w.online()
}

// A bundle that a root of before did not sign changes nothing.
func TestForgedTrust(t *testing.T) {
	w := newWorld(t)
	w.online()
	forger := fleettest.New(t, w.machine.now)
	w.fleet.Publish(forger.Root, func(b *agentv1.TrustBundle) { b.ServerCa = [][]byte{forger.ServerCA.Cert.Raw} })
	w.live(10 * time.Minute)
	w.expect("Online")
	if s := w.Status(); s.Trust.Version != 1 {
		t.Errorf("trust %+v", s.Trust)
	}
}

// However the machine's clock stands, the agent enrols, knows the fleet's time, and says how wrong its own is.
func TestWrongClock(t *testing.T) {
	for name, skew := range map[string]time.Duration{"1970": -noon.Sub(time.Unix(0, 0)), "a quarter of an hour ahead": 15 * time.Minute, "ten years ahead": 3650 * day} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.machine.skew = skew
			w.live(time.Minute)
			w.expect("Online", "clock-skewed")
			w.live(5 * time.Minute)
			if got := w.gateway.LastBeat().GetClockSkew().AsDuration(); got.Round(time.Minute) != skew.Round(time.Minute) {
				t.Errorf("reports a skew of %s, want %s", got, skew)
			}
			if diff := w.now().Sub(w.machine.now()).Abs(); diff > time.Second {
				t.Errorf("its time is %s off", diff)
			}
			w.crash()
			w.Step(t.Context())
			if diff := w.now().Sub(w.machine.now()).Abs(); diff > 2*time.Second {
				t.Errorf("after a restart its time is %s off", diff)
			}
		})
	}
}

// A gateway that shows an old beacon after a restart, on a machine whose clock was set back, moves no time back: the floor is on disk.
func TestTimeFloorIsKept(t *testing.T) {
	w := newWorld(t)
	w.online()
	old := w.fleet.Beacon()
	w.live(3 * time.Hour)
	floor := w.clock.Floor()
	if floor.Before(noon.Add(2 * time.Hour)) {
		t.Fatalf("floor %s", floor)
	}
	w.machine.skew = -1000 * day
	w.crash()
	w.gateway.SetReply(func(r *agentv1.HeartbeatReply) { r.Beacon, r.ServerTime = old, timestamppb.New(noon) })
	w.online2()
	if now := w.now(); now.Before(floor) {
		t.Errorf("now is %s, behind the floor %s", now, floor)
	}

	// The one way back: a bundle that says so.
	w.gateway.SetReply(nil)
	w.machine.mu.Lock()
	w.machine.truth = noon.Add(time.Hour)
	w.machine.mu.Unlock()
	w.fleet.Publish(w.fleet.Root, func(b *agentv1.TrustBundle) { b.ResetTimeFloor = timestamppb.New(noon) })
	w.live(20 * time.Minute)
	if diff := w.now().Sub(w.machine.now()).Abs(); diff > time.Minute {
		t.Errorf("after the repair its time is %s off", diff)
	}
}

// online2 lives until the agent is online, whatever its clock.
func (w *world) online2() {
	w.t.Helper()
	w.live(time.Minute)
	if s := w.Status(); s.State != "Online" {
		w.t.Fatalf("state %s, %v", s.State, s.Problems)
	}
}

// Whatever a server says, the agent takes it or leaves it: no crash, the identity stays.
func FuzzListen(f *testing.F) {
	f.Add([]byte{}, []byte("application/vnd.rollcall.assignment.v1+json"), []byte(`{"fleetId":"x"}`))
	f.Add([]byte{0x3a, 1, 'g'}, []byte(envelope.Policy), []byte(`{"revision":"1","issuedAt":"9999-12-31T23:59:59Z"}`))
	f.Add([]byte{}, []byte(envelope.Action), []byte(`{"fleetId":"0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02","actionUid":"0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02","expiresAt":"9999-12-31T23:59:59Z"}`))
	f.Fuzz(func(t *testing.T, body, kind, payload []byte) {
		t.Parallel()
		fleet := fleettest.New(t, func() time.Time { return noon })
		e := offline(t, fleet)
		defer e.stop()
		reply := &agentv1.HeartbeatReply{}
		if reply.UnmarshalVT(body) != nil {
			reply = &agentv1.HeartbeatReply{}
		}
		// Signed well, as by a manager of the future or one with a fault.
		for _, typ := range []envelope.Type{envelope.Assignment, envelope.Policy, envelope.Beacon, envelope.Cancel, envelope.Action, envelope.Type(kind)} {
			if signed, err := envelope.Sign(fleet.Order, typ, payload); err == nil {
				reply.Orders = append(reply.Orders, signed)
				reply.Beacon = signed
			}
		}
		if wire.CheckHeartbeatReply(reply) != nil {
			return
		}
		floor := e.clock.Floor()
		e.listen(t.Context(), heard{reply.GetBeacon(), reply.GetServerTime(), reply.GetOrders()}, e.Host.Clock())
		if e.clock.Floor().Before(floor) || e.interval() < time.Second || e.interval() > 24*time.Hour {
			t.Errorf("floor %s, interval %s", e.clock.Floor(), e.interval())
		}
		e.act()
		beat, _ := e.compose(t.Context())
		if err := wire.CheckHeartbeat(beat); err != nil {
			t.Errorf("the next heartbeat is out of bounds: %v", err)
		}
	})
}
