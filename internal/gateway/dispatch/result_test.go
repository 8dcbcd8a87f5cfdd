package dispatch

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// sentTo has an action sent to an agent on a session.
func sentTo(w *world, names ...string) (*replica, *Agent, *socket) {
	w.Helper()
	r, a := w.replica()
	s := w.connect(r, a)
	w.act(names...)
	r.watch()
	pass(time.Second)
	if got := s.took(); len(got) != len(names) {
		w.Fatalf("sent: %q", got)
	}
	w.server.takeWrites()
	return r, a, s
}

// What an agent reports ends its action in the way of the table.
func TestEnds(t *testing.T) {
	for _, test := range []struct {
		outcome agentv1.Outcome
		reason  string
		phase   v1alpha1.ActionPhase
	}{
		{agentv1.Outcome_OUTCOME_SUCCEEDED, "Done", v1alpha1.ActionSucceeded},
		{agentv1.Outcome_OUTCOME_FAILED, "TimedOut", v1alpha1.ActionFailed},
		{agentv1.Outcome_OUTCOME_UNKNOWN, "Interrupted", v1alpha1.ActionUnknown},
		{agentv1.Outcome_OUTCOME_CANCELLED, "CancelledByUser", v1alpha1.ActionCancelled},
		{agentv1.Outcome_OUTCOME_REFUSED, "PastDeadline", v1alpha1.ActionExpired},
		{agentv1.Outcome_OUTCOME_REFUSED, "DisabledByPolicy", v1alpha1.ActionUnsupported},
		{agentv1.Outcome_OUTCOME_REFUSED, "Superseded", v1alpha1.ActionCancelled},
	} {
		simulate(t, func(w *world) {
			r, a, _ := sentTo(w, "hello")
			u := w.result("hello", test.outcome, func(m *agentv1.ActionResult) { m.Reason = test.reason })
			w.answers(r, a, u, "ack")
			if w.phase("hello") != test.phase || !bytes.Equal(w.server.stored("hello").Status.Result.Proof.Payload, u.Result.Payload) {
				t.Errorf("it is %s, want %s", w.phase("hello"), test.phase)
			}
			w.wrote("hello " + string(test.phase))
		})
	}
}

// A result is acknowledged once it is durable, and not before.
func TestResultIsDurableBeforeItIsAcknowledged(t *testing.T) {
	simulate(t, func(w *world) {
		r, a, _ := sentTo(w, "hello")
		w.server.be(func(s *server) { s.latency = time.Second })
		is := w.report(r, a, w.done("hello"))
		pass(500 * time.Millisecond)
		if got := is(); got != "waits" {
			t.Errorf("before it is written: %s", got)
		}
		pass(time.Second)
		if got := is(); got != "ack" || w.phase("hello") != v1alpha1.ActionSucceeded {
			t.Errorf("afterwards: %s, %s", got, w.phase("hello"))
		}
	})
	simulate(t, func(w *world) {
		r, a, s := sentTo(w, "hello")
		w.server.be(func(s *server) { s.away = true })
		w.answers(r, a, w.done("hello"), "not-ready")
		pass(time.Minute)
		s.has() // the agent has it, as is known
		w.server.be(func(s *server) { s.away, s.deaf = false, 1 })
		w.answers(r, a, w.done("hello"), "ack")
		w.wrote("hello Succeeded")
		w.answers(r, a, w.done("hello"), "ack")
		w.wrote()
		if n := testutil.ToFloat64(r.metrics.transitions.WithLabelValues("12")); n != 1 {
			t.Errorf("it is counted %g times", n)
		}
	})
	simulate(t, func(w *world) {
		r, a, _ := sentTo(w, "hello")
		w.server.be(func(s *server) { s.refuses = true })
		w.answers(r, a, w.done("hello"), "not-ready")
	})
}

// Only what the agent has signed counts, of its own actions.
func TestProofs(t *testing.T) {
	simulate(t, func(w *world) {
		r, a, _ := sentTo(w, "hello", "other")
		changed := func(change func(*agentv1.ActionResult)) *agentv1.ActionUpdate {
			return w.result("hello", agentv1.Outcome_OUTCOME_SUCCEEDED, change)
		}
		another := *w
		another.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		forged := w.done("hello")
		forged.Result.Payload = append(forged.Result.Payload, ' ')
		asOther := w.done("hello")
		asOther.ActionUid = uidOf("other")
		enrolment, err := envelope.Sign(w.key, envelope.Enrollment, w.done("hello").Result.Payload)
		if err != nil {
			t.Fatal(err)
		}
		otherType := says("hello", finished)
		otherType.Result = enrolment
		for name, test := range map[string]struct {
			u    *agentv1.ActionUpdate
			want string
		}{
			"of another key":      {another.done("hello"), "proof-invalid"},
			"forged":              {forged, "proof-invalid"},
			"of another type":     {otherType, "proof-invalid"},
			"of another fleet":    {changed(func(m *agentv1.ActionResult) { m.FleetId = uuidOf("x") }), "proof-invalid"},
			"of another identity": {changed(func(m *agentv1.ActionResult) { m.IdentityId = uuidOf("x") }), "proof-invalid"},
			"about another one":   {asOther, "proof-invalid"},
			"beyond a bound":      {changed(func(m *agentv1.ActionResult) { m.Reason = "" }), "malformed"},
		} {
			w.answers(r, a, test.u, test.want)
			w.wrote()
			if w.phase("hello") != v1alpha1.ActionSent {
				t.Errorf("%s: it is %s", name, w.phase("hello"))
			}
		}
	})
}

// Another endpoint's action is none of this agent's business.
func TestResultOfAnothersAction(t *testing.T) {
	simulate(t, func(w *world) {
		r, _, _ := sentTo(w, "hello")
		w.endpoint.IdentityID = uuidOf("second")
		r.hold(func(e *store.Endpoint) { *e = w.endpoint })
		other := &Agent{ID: w.endpoint.IdentityID}
		if is := w.report(r, other, says("hello", runs)); other.work != nil || is() != "ack" {
			t.Errorf("it is remembered, or answered with %s", is())
		}
		w.answers(r, other, w.done("hello"), "ack")
		pass(time.Minute)
		w.wrote()
		if n := testutil.ToFloat64(r.metrics.unfit); n != 1 {
			t.Errorf("%g results did not fit", n)
		}
	})
}

// A result after the end is kept, once; its repetition is acknowledged.
func TestLateResults(t *testing.T) {
	simulate(t, func(w *world) {
		r, a, _ := sentTo(w, "hello")
		result := w.done("hello")
		w.look("hello", func(l *action.Look) { l.Now = l.Now.Add(2 * time.Hour) }) // the manager gives it up
		if w.phase("hello") != v1alpha1.ActionUnknown {
			t.Fatalf("it is %s", w.phase("hello"))
		}
		w.answers(r, a, result, "ack") // the watch lags
		w.wrote("hello Unknown")
		if got := w.server.stored("hello").Status; got.Result == nil || got.Message == "" {
			t.Errorf("status %+v", got)
		}
		r.watch()
		w.answers(r, a, result, "ack")
		w.wrote()
	})
}

// The result of an action that was deleted is acknowledged; one that is not open here is looked for.
func TestResultsOfActionsThatAreNotOpen(t *testing.T) {
	simulate(t, func(w *world) {
		r, a, s := sentTo(w, "hello", "lagging")
		hello, lagging := w.done("hello"), w.done("lagging")
		w.server.delete("hello")
		r.watch()
		pass(time.Hour / 4)
		for _, name := range s.took() {
			if name != "action:lagging" {
				t.Errorf("%s is sent, and it was deleted", name)
			}
		}
		w.answers(r, a, hello, "ack")
		w.answers(r, a, hello, "ack")
		w.server.delete("lagging")
		w.answers(r, a, lagging, "ack") // the watch has not said so yet
		w.answers(r, a, w.done("never there"), "ack")
		w.wrote()
	})
	simulate(t, func(w *world) {
		_, _, _ = sentTo(w, "hello")
		blind, b := w.replica()
		w.answers(blind, b, w.done("hello"), "ack")
		w.wrote("hello Succeeded")
	})
	simulate(t, func(w *world) { // etcd was restored to before the admission
		r, a := w.replica()
		w.act("hello")
		result := w.done("hello")
		w.server.change("hello", func(a *v1alpha1.EndpointAction) { a.Status.Admission, a.Status.Conditions = nil, nil })
		w.answers(r, a, result, "not-ready")
		w.look("hello")
		w.answers(r, a, result, "ack")
		w.wrote("hello Succeeded")
	})
}

// An agent cannot have the API server searched without end.
func TestSearchesAreBounded(t *testing.T) {
	simulate(t, func(w *world) {
		r, a := w.replica()
		throttled := 0
		for n := range 100 {
			is := w.report(r, a, w.result(uuidOf(n), agentv1.Outcome_OUTCOME_SUCCEEDED))
			pass(10 * time.Millisecond)
			if is() == string(wire.Throttled) {
				throttled++
			}
		}
		if w.server.reads > wire.MaxUpdates+1 || throttled < 60 {
			t.Errorf("%d reads, %d throttled", w.server.reads, throttled)
		}
	})
}

// Results that wait are bounded, in bytes.
func TestWaitingResultsAreBounded(t *testing.T) {
	simulate(t, func(w *world) {
		r, a, _ := sentTo(w, "hello")
		big := w.result("hello", agentv1.Outcome_OUTCOME_SUCCEEDED, func(m *agentv1.ActionResult) { m.Message = strings.Repeat("x", wire.MaxResultMessage) })
		w.server.be(func(s *server) { s.latency = time.Minute })
		r.waiting = maxWaiting - big.SizeVT()
		first := w.report(r, a, big)
		w.answers(r, a, big, "overloaded")
		pass(2 * time.Minute)
		if got := first(); got == "waits" {
			t.Error("the first was never answered")
		}
		if r.waiting != maxWaiting-big.SizeVT() {
			t.Errorf("%d bytes are still counted", r.waiting)
		}
	})
}

func TestUpdatesOverHTTPS(t *testing.T) {
	simulate(t, func(w *world) {
		r, a, _ := sentTo(w, "one", "two", "three")
		forged := w.done("two")
		forged.Result.Payload = append(forged.Result.Payload, ' ')
		updates := []*agentv1.ActionUpdate{w.done("one"), forged, says("three", runs), w.done("gone")}
		answers := r.Updates(w.Context(), a, w.spki, updates, time.Now())
		var got []string
		for _, one := range answers.GetAcks() {
			got = append(got, one.GetProblem().GetType())
		}
		if want := []string{"", "https://rollcall.dev/problems/proof-invalid", "", ""}; !slices.Equal(got, want) || wire.CheckAcks(answers) != nil {
			t.Errorf("answered %q, want %q; %v", got, want, wire.CheckAcks(answers))
		}
		w.server.be(func(s *server) { s.latency = time.Hour })
		began := time.Now()
		answers = r.Updates(w.Context(), a, w.spki, []*agentv1.ActionUpdate{w.done("two")}, time.Now())
		if p, _ := wire.ProblemOf(answers.GetAcks()[0].GetProblem()); p.Name != wire.NotReady || time.Since(began) != updatesWait {
			t.Errorf("after %s: %v", time.Since(began), p)
		}
		for range 60 {
			_ = r.Admit(a, time.Now())
		}
		if p := r.Admit(a, time.Now()); p == nil || p.Name != wire.Throttled {
			t.Errorf("the 61st at once: %v", p)
		}
		synctest.Wait()
	})
}
