package action

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// plainSeal is quick; what is signed is none of these tests' business.
func plainSeal(t envelope.Type, m proto.Message) (v1alpha1.Envelope, error) {
	b, err := proto.Marshal(m)
	return v1alpha1.Envelope{PayloadType: string(t), Payload: b, Signatures: []v1alpha1.EnvelopeSignature{{Sig: []byte{1}}}}, err
}

func drawEndpoint(t *rapid.T, now time.Time) *Endpoint {
	if rapid.IntRange(0, 9).Draw(t, "endpoint") == 0 {
		return nil
	}
	ep := devbox()
	odd := func(label string) bool { return rapid.IntRange(0, 5).Draw(t, label) == 0 }
	if odd("identity") {
		ep.IdentityID = rapid.SampledFrom([]string{"", stranger}).Draw(t, "whose")
	}
	if odd("lifecycle") {
		ep.Lifecycle = rapid.SampledFrom([]v1alpha1.EndpointLifecycle{"Active", "Suspended", "Blocked", "Decommissioned"}).Draw(t, "stage")
	}
	ep.Conflict, ep.Reported, ep.Online = odd("conflict"), !odd("unreported"), !odd("offline")
	ep.Channel = rapid.SampledFrom([]v1alpha1.Channel{"WebSocket", "Heartbeat", "None"}).Draw(t, "channel")
	if odd("journal") {
		ep.JournalID, ep.JournalTime = strings.Repeat("f", 32), now.Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, "made"))*time.Second)
	}
	if odd("capabilities") {
		ep.Capabilities = nil
	}
	if odd("disabled") {
		ep.Disabled = all
	}
	if odd("declared") {
		ep.Isolation = rapid.SampledFrom([]v1alpha1.Isolation{"Isolated", "Released"}).Draw(t, "isolation")
	}
	if odd("state") {
		ep.State = &v1alpha1.EndpointAgent{Isolation: "Isolated", IsolationActionUID: uid}
	}
	return ep
}

func drawEvent(t *rapid.T, a *v1alpha1.EndpointAction, now time.Time) Event {
	ep := drawEndpoint(t, now)
	who := rapid.SampledFrom([]string{machine, machine, machine, stranger}).Draw(t, "who")
	switch rapid.SampledFrom([]string{"look", "look", "send", "progress", "result", "missing"}).Draw(t, "event") {
	case "look":
		l := Look{Now: now, Endpoint: ep, FleetID: fleetID, Seal: plainSeal, NewerOfTopic: rapid.IntRange(0, 9).Draw(t, "newer") == 0}
		l.EndpointDeleted = ep == nil && rapid.Bool().Draw(t, "deleted")
		if isChild(a) && rapid.IntRange(0, 9).Draw(t, "parent") > 0 {
			l.Parent = newParent()
			l.Parent.Spec.Cancel = rapid.IntRange(0, 9).Draw(t, "cancelled") == 0
			l.Parent.Status.Children = &v1alpha1.ActionChildren{Released: int32(rapid.IntRange(0, 1).Draw(t, "released"))}
		}
		return l
	case "send":
		e := Send{Now: now, Channel: v1alpha1.ChannelWebSocket, Gateway: gateway, Endpoint: ep}
		if ep != nil {
			e.JournalID = ep.JournalID
		}
		return e
	case "progress":
		return Progress{Now: now, IdentityID: who, Percent: rapid.Uint32().Draw(t, "percent"), Message: rapid.StringN(0, 300, 2000).Draw(t, "message")}
	case "missing":
		return Missing{Now: now, IdentityID: who}
	default:
		m := &agentv1.ActionResult{
			FleetId: fleetID, IdentityId: who, ActionUid: uid, Outcome: agentv1.Outcome(rapid.Int32Range(0, 7).Draw(t, "outcome")),
			Reason:  rapid.SampledFrom([]string{"Done", "PastDeadline", "Superseded", "Unsupported", "no word", ""}).Draw(t, "reason"),
			Message: rapid.StringN(0, 300, 4000).Draw(t, "message"), StartedAt: &timestamppb.Timestamp{Seconds: rapid.Int64().Draw(t, "started")},
		}
		if a.Status.Admission != nil && rapid.Bool().Draw(t, "this order") {
			m.ActionDigest = Digest(a.Status.Admission.Order)
		}
		return Result{Now: now, IdentityID: who, Says: m, Proof: v1alpha1.Envelope{PayloadType: string(envelope.Result), Payload: []byte{1}}}
	}
}

// TestWhateverHappens: no sequence of events, however odd, leads to a status that may not be, or to one that is written again and again.
func TestWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, now := newAction(rapid.SampledFrom(all).Draw(t, "type")), noon
		if rapid.IntRange(0, 4).Draw(t, "child") == 0 {
			a = childOf(newParent(), "devbox")
			a.UID = uid
		}
		for range rapid.IntRange(1, 30).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.Int64Range(-10, rapid.SampledFrom([]int64{10, 100, 4000}).Draw(t, "pace")).Draw(t, "seconds")) * time.Second)
			switch rapid.IntRange(0, 20).Draw(t, "person") {
			case 0:
				a.Spec.Cancel, a.Generation = true, a.Generation+1
			case 1:
				a.Spec.TTLSecondsAfterFinished, a.Generation = ptr.To[int32](1), a.Generation+1
			case 2:
				a.DeletionTimestamp = ptr.To(metav1.NewTime(now))
			}
			e := drawEvent(t, a, now)
			before := a.DeepCopy()
			status, row, err := Next(a, e)
			switch {
			case err != nil && (!errors.Is(err, ErrUnfit) || status != nil || row != None):
				t.Fatalf("row %q, %v", row, err)
			case err != nil:
				continue
			}
			if row == None {
				if !equalStatus(&before.Status, status) {
					t.Fatalf("no row, and yet another status: %+v, %+v", before.Status, status)
				}
				continue
			}
			a.Status = *status
			check(t, before, a)
			if _, again, err := Next(a, e); again != None {
				t.Fatalf("%T takes row %q, and then row %q, %v", e, row, again, err)
			}
			if due := Due(a, now); row != "27" && !due.IsZero() && !Ended(&a.Status) && due.Before(now) {
				t.Fatalf("%s was written %s and is due %s", a.Status.Phase, now, due)
			}
		}
	})
}

// TestWhateverHappensToParents is the same for actions with a selector.
func TestWhateverHappensToParents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, now := newParent(), noon
		p.Spec.MaxFailures = maybe(rapid.Int32Range(0, 2)).Draw(t, "failures")
		p.Spec.MaxParallel = maybe(rapid.Int32Range(1, 3)).Draw(t, "parallel")
		children := brood(p, rapid.IntRange(0, 5).Draw(t, "children"))
		for range rapid.IntRange(1, 30).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(-2, 10).Draw(t, "seconds")) * time.Second)
			if rapid.IntRange(0, 20).Draw(t, "cancel") == 0 {
				p.Spec.Cancel, p.Generation = true, p.Generation+1
			}
			if i := rapid.IntRange(0, 5).Draw(t, "which"); i < len(children) && !Ended(&children[i].Status) {
				end(children[i], rapid.SampledFrom(ends).Draw(t, "phase"), "Somehow")
			}
			l := ParentLook{Now: now, Children: children, All: rapid.IntRange(0, 4).Draw(t, "all") > 0, Matched: len(children)}
			if len(children) > 0 && rapid.IntRange(0, 9).Draw(t, "unseen") == 0 {
				l.Children = children[1:]
			}
			before := p.DeepCopy()
			status, row, err := NextParent(p, l)
			if err != nil {
				t.Fatal(err)
			}
			p.Status = *status
			if row != None {
				check(t, before, p)
			}
			if was := before.Status.Children; was != nil && (status.Children.Released < was.Released || status.Children.Total < was.Total) {
				t.Fatalf("%+v became %+v", was, status.Children)
			}
			if row == None && !equalStatus(&before.Status, status) {
				t.Fatalf("no row, and yet another status: %+v, %+v", before.Status, status)
			}
			settled := p.DeepCopy()
			for n := 0; row != None && !Ended(&settled.Status); n++ {
				next, again, err := NextParent(settled, l)
				if err != nil || n > 2 {
					t.Fatalf("it takes row %q, and then row %q, %v", row, again, err)
				}
				settled.Status, row = *next, again
			}
		}
	})
}
