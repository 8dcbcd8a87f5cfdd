package dispatch

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// sketch is what decide is asked, about one action.
type sketch struct {
	view
	memory
	action *v1alpha1.EndpointAction
}

// What is sent to an agent now, and what is written of its action, one condition after the other.
func TestDecide(t *testing.T) {
	type change func(*sketch)
	sent := func(x *sketch) {
		x.action.Status.Phase = v1alpha1.ActionSent
		x.action.Status.Delivery = &v1alpha1.ActionDelivery{Channel: v1alpha1.ChannelWebSocket, Gateway: "gw", JournalID: journalID, SentTime: metav1.NewMicroTime(x.now)}
		x.sent = x.now
	}
	running := func(x *sketch) {
		sent(x)
		x.action.Status.Phase = v1alpha1.ActionRunning
		x.action.Status.Delivery.AcknowledgedTime = &metav1.MicroTime{Time: x.now}
		x.has, x.runs = true, x.now
	}
	cancelled := func(x *sketch) {
		sent(x)
		x.action.Spec.Cancel = true
		x.action.Status.Cancellation = &v1alpha1.Envelope{}
	}
	later := func(d time.Duration) change { return func(x *sketch) { x.now = x.now.Add(d) } }
	for _, test := range []struct {
		name   string
		change []change
		want   string
		again  time.Duration
	}{
		{"admitted", nil, "send", 0},
		{"no line", []change{func(x *sketch) { x.channel = "" }}, "", 0},
		{"a heartbeat", []change{func(x *sketch) { x.channel = v1alpha1.ChannelHeartbeat }}, "send", 0},
		{"a terminal over a session", []change{func(x *sketch) { x.action.Spec.Type = v1alpha1.LiveTerminal }}, "send", 0},
		{"a terminal with a heartbeat", []change{func(x *sketch) {
			x.action.Spec.Type, x.channel = v1alpha1.LiveTerminal, v1alpha1.ChannelHeartbeat
		}}, "", 0},
		{"conflict", []change{func(x *sketch) { x.endpoint.Connection.ConflictInstance = "x" }}, "", 0},
		{"suspended", []change{func(x *sketch) { x.endpoint.Lifecycle = v1alpha1.LifecycleSuspended }}, "", 0},
		{"of another identity", []change{func(x *sketch) { x.action.Status.Admission.IdentityID = uuidOf("x") }}, "", 0},
		{"of another endpoint", []change{func(x *sketch) { x.action.Spec.EndpointName = "other" }}, "", 0},
		{"of another namespace", []change{func(x *sketch) { x.action.Namespace = "other" }}, "", 0},
		{"cancelled before", []change{func(x *sketch) { x.action.Spec.Cancel = true }}, "", 0},
		{"being deleted", []change{func(x *sketch) { x.action.DeletionTimestamp = &metav1.Time{Time: x.now} }}, "", 0},
		{"just before its deadline", []change{later(time.Hour - 6*time.Second)}, "send", 0},
		{"too late to arrive", []change{later(time.Hour - 5*time.Second)}, "", 0},
		{"no journal", []change{func(x *sketch) { x.journal = journal{} }}, "", 0},
		{"no time yet", []change{func(x *sketch) { x.journal.made = 0 }}, "", 0},
		{"a newer journal", []change{func(x *sketch) { x.journal.made = x.now.Add(time.Second).UnixNano() }}, "", 0},

		{"sent just now", []change{sent}, "", 30 * time.Second},
		{"not acknowledged for long", []change{sent, later(30 * time.Second)}, "repeat", 0},
		{"on another line", []change{sent, func(x *sketch) { x.sent = time.Time{} }}, "repeat", 0},
		{"a heartbeat that crosses it", []change{sent, later(time.Second), func(x *sketch) { x.contact = x.now }}, "", 29 * time.Second},
		{"a heartbeat without it", []change{sent, later(3 * time.Second), func(x *sketch) { x.contact = x.now }}, "repeat", 0},
		{"acknowledged here", []change{sent, func(x *sketch) { x.has = true }, later(time.Minute)}, "", 0},
		{"acknowledged elsewhere", []change{running, func(x *sketch) { x.has = false }, later(time.Minute)}, "", 0},
		{"its result is here", []change{sent, func(x *sketch) { x.ended = true }, later(time.Minute)}, "", 0},
		{"into another journal", []change{sent, later(time.Minute), func(x *sketch) { x.journal.id[0]++ }}, "", 0},
		{"past its starting deadline", []change{sent, later(time.Hour)}, "repeat", 0},
		{"past its report deadline", []change{sent, later(2 * time.Hour)}, "", 0},
		{"sent, conflict", []change{sent, later(time.Minute), func(x *sketch) { x.endpoint.Connection.ConflictInstance = "x" }}, "", 0},
		{"sent, suspended", []change{sent, later(time.Minute), func(x *sketch) { x.endpoint.Lifecycle = v1alpha1.LifecycleSuspended }}, "", 0},
		{"sent, no line", []change{sent, later(time.Minute), func(x *sketch) { x.channel = "" }}, "", 0},

		{"to be cancelled", []change{cancelled}, "cancel", 0},
		{"to be cancelled, as was said", []change{cancelled, func(x *sketch) { x.cancelled = x.now }, later(time.Minute)}, "", 0},
		{"to be cancelled, and another heartbeat", []change{cancelled, func(x *sketch) {
			x.cancelled, x.contact = x.now, x.now.Add(time.Second)
		}}, "cancel", 0},
		{"cancelled by a person, and not signed", []change{sent, func(x *sketch) { x.action.Spec.Cancel = true }, later(time.Minute)}, "", 0},
		{"to be cancelled in another journal", []change{cancelled, func(x *sketch) { x.journal.id[0]++ }}, "", 0},

		{"it runs", []change{sent, func(x *sketch) { x.has, x.runs = true, x.now }}, "", 2 * time.Second},
		{"it runs for long", []change{sent, func(x *sketch) { x.has, x.runs = true, x.now }, later(2 * time.Second)}, "progress", 0},
		{"it runs without a line", []change{sent, func(x *sketch) { x.has, x.runs, x.channel = true, x.now, "" }, later(2 * time.Second)}, "progress", 0},
		{"it ran, and its result is here", []change{sent, func(x *sketch) { x.has, x.runs, x.ended = true, x.now, true }, later(2 * time.Second)}, "", 0},
		{"it runs, and says nothing", []change{running, later(time.Hour)}, "", 0},
		{"it runs, and says how far it is", []change{running, func(x *sketch) { x.percent = 10 }, later(10 * time.Second)}, "", 20 * time.Second},
		{"some time later", []change{running, func(x *sketch) { x.message = "at it" }, later(30 * time.Second)}, "progress", 0},
		{"it was written", []change{running, func(x *sketch) { x.percent, x.wrote = 10, x.now.Add(20*time.Second) }, later(40 * time.Second)}, "", 10 * time.Second},

		{"not listed once", []change{running, func(x *sketch) { x.misses = 1 }}, "", 0},
		{"not listed twice", []change{running, func(x *sketch) { x.misses = 2 }}, "missing", 0},
		{"not listed twice by another journal", []change{running, func(x *sketch) { x.misses, x.journal.id[0] = 2, 7 }}, "", 0},
		{"not listed twice by one of two", []change{running, func(x *sketch) { x.misses, x.endpoint.Connection.ConflictInstance = 2, "x" }}, "", 0},
		{"missing, as is written", []change{running, func(x *sketch) {
			x.misses, x.action.Status.Delivery.MissingTime = 3, &metav1.MicroTime{Time: x.now}
		}}, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.act("hello")
				x := &sketch{action: w.server.stored("hello"), view: view{
					Timing: Timing{Repeat: 30 * time.Second, RunningAfter: 2 * time.Second}, now: time.Now(), endpoint: w.endpoint,
					journal: journalOf(w.beat().Agent), gateway: "gw", channel: v1alpha1.ChannelWebSocket,
				}}
				for _, c := range test.change {
					c(x)
				}
				x.actions = map[string]memory{uidOf("hello"): x.memory}
				p := decide([]*v1alpha1.EndpointAction{x.action}, x.view)
				if got := p.String(); got != test.want {
					t.Errorf("%q, want %q", got, test.want)
				}
				if test.again == 0 != p.again.IsZero() || test.again != 0 && !p.again.Equal(x.now.Add(test.again)) {
					t.Errorf("again at %s, want %s after %s", p.again, test.again, x.now)
				}
			})
		})
	}
}

func (p plan) String() string {
	var all []string
	for name, list := range map[string][]*v1alpha1.EndpointAction{
		"send": p.send, "repeat": p.repeat, "cancel": p.cancel, "progress": p.progress, "missing": p.missing,
	} {
		if len(list) > 0 {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
