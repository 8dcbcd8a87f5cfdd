package agent

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/orders"
)

// A gateway that holds beacons back, and shows the last one again after a restart, has no time stand still: what has expired meanwhile is refused.
func TestTimeIsNotHeldBack(t *testing.T) {
	w := newWorld(t)
	w.online()
	last := w.fleet.Beacon()
	order, uid := w.action(func(m *agentv1.Action) { m.ExpiresAt = timestamppb.New(w.fleet.Now().Add(10 * time.Minute)) })
	w.gateway.SetReply(func(r *agentv1.HeartbeatReply) { r.Beacon, r.ServerTime = last, timestamppb.New(noon) })
	w.live(3 * time.Hour)
	before := w.machine.now()
	w.crash()
	w.gateway.SetOrders(func(string) []*agentv1.Envelope { return []*agentv1.Envelope{order} })
	w.online2()
	if behind := before.Sub(w.now()); behind > 10*time.Minute {
		t.Errorf("its time is %s behind", behind)
	}
	if all := w.gateway.Results(uid); len(all) != 1 || all[0].GetOutcome() != agentv1.Outcome_OUTCOME_REFUSED || all[0].GetReason() != orders.PastDeadline {
		t.Errorf("it ended %v", all)
	}
}
