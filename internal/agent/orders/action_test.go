package orders

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// Who signed an action or a cancel, and whom it is for.
func TestBookOfActions(t *testing.T) {
	f := fleettest.New(t, func() time.Time { return now })
	foreign := fleettest.New(t, func() time.Time { return now })
	twin := *foreign
	twin.ID = f.ID
	otherFleet := *f
	otherFleet.ID = foreign.ID
	good, uid := f.Action(me, nil)
	ofAnother, _ := f.Action(another, nil)
	byAnother, _ := twin.Action(me, nil)
	elsewhere, _ := otherFleet.Action(me, nil)
	odd, _ := f.Action(me, func(m *agentv1.Action) { m.ActionUid = "x" })
	b := book(t, f)
	for _, c := range []struct {
		name, action, cancel string
		order                *agentv1.Envelope
	}{
		{"good", "", "", good},
		{"another machine's", "action: OtherIdentity", "cancel: OtherIdentity", ofAnother},
		{"another key's", "action: SignatureInvalid", "cancel: SignatureInvalid", byAnother},
		{"another fleet's", "action: OtherFleet", "cancel: OtherFleet", elsewhere},
		{"without a UID", "action: Malformed", "cancel: Malformed", odd},
	} {
		signer := f
		if c.order == byAnother {
			signer = &twin
		}
		if _, err := b.Action(c.order); text(err) != c.action {
			t.Errorf("%s: %q, want %q", c.name, text(err), c.action)
		}
		if _, err := b.Cancel(signer.Cancel(c.order)); text(err) != c.cancel {
			t.Errorf("%s: %q, want %q", c.name, text(err), c.cancel)
		}
	}
	a, err := b.Action(good)
	if err != nil || a.Order.GetActionUid() != uid || a.Digest != fleettest.Digest(good) || a.Type != "PerformHeartbeat" || a.Topic != NoTopic {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := b.Action(f.Cancel(good)); text(err) != "action: Malformed" {
		t.Errorf("a cancel passes for an action: %v", err)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestJournalTakes(t *testing.T) {
	for _, c := range []struct {
		journal Journal
		issued  time.Time
		want    string
	}{
		{Journal{CreatedAt: now}, now, ""},
		{Journal{CreatedAt: now}, now.Add(-time.Nanosecond), "action: OlderThanJournal"},
		{Journal{}, now, "action: TimeUnknown"},
		{Journal{CreatedAt: now, Full: true}, now, "action: JournalFull"},
		{Journal{CreatedAt: now, Full: true}, now.Add(-time.Second), "action: OlderThanJournal"},
	} {
		if got := text(c.journal.Takes("action", c.issued)); got != c.want {
			t.Errorf("%+v at %s: %q, want %q", c.journal, c.issued, got, c.want)
		}
	}
}

// Every type of the protocol by the name that capabilities and policies give it, and its topic.
func TestTypes(t *testing.T) {
	f := fleettest.New(t, func() time.Time { return now })
	oneof := (&agentv1.Action{}).ProtoReflect().Descriptor().Oneofs().ByName("parameters")
	topics := map[string]Topic{"IsolateEndpoint": Isolation, "CancelIsolation": Isolation, "SetEndpointProxy": Proxy, "DisableEndpointProxy": Proxy}
	var names []string
	for i := range oneof.Fields().Len() {
		field := oneof.Fields().Get(i)
		e, _ := f.Action(me, func(m *agentv1.Action) {
			r := m.ProtoReflect()
			r.Set(field, r.NewField(field))
		})
		a, err := ParseAction(e)
		if err != nil || a.Topic != topics[a.Type] {
			t.Errorf("%s: %+v, %v", field.Name(), a, err)
			continue
		}
		names = append(names, a.Type)
	}
	const want = "QuarantineFile RestoreFile TerminateProcess IsolateEndpoint CancelIsolation LiveTerminal SetEndpointProxy DisableEndpointProxy " +
		"RetrieveFiles RetrieveSecurityEventData RetrieveSupportFile PerformHeartbeat"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("types %s, want %s", got, want)
	}
}

func TestJudge(t *testing.T) {
	f := fleettest.New(t, func() time.Time { return now })
	standing := Standing{Now: now, Capabilities: []string{"IsolateEndpoint", "PerformHeartbeat"}}
	isolate := func(m *agentv1.Action) {
		m.Parameters = &agentv1.Action_IsolateEndpoint{IsolateEndpoint: &agentv1.IsolateEndpoint{}}
	}
	for name, c := range map[string]struct {
		change   func(*agentv1.Action)
		standing func(*Standing)
		accepted bool
		want     string
	}{
		"good":                      {nil, nil, false, ""},
		"at its deadline":           {nil, func(s *Standing) { s.Now = now.Add(time.Hour) }, false, PastDeadline},
		"right before":              {nil, func(s *Standing) { s.Now = now.Add(time.Hour - 1) }, false, ""},
		"no capability":             {nil, func(s *Standing) { s.Capabilities = nil }, false, Unsupported},
		"requires what there is":    {func(m *agentv1.Action) { m.Requires = []string{"PerformHeartbeat"} }, nil, false, ""},
		"requires what there isn't": {func(m *agentv1.Action) { m.Requires = []string{"action.v2"} }, nil, false, Unsupported},
		"parameters unknown":        {func(m *agentv1.Action) { m.Parameters = nil }, nil, false, Unsupported},
		"out of bounds":             {func(m *agentv1.Action) { m.ActiveDeadline = durationpb.New(0) }, nil, false, Unsupported},
		"disabled":                  {nil, func(s *Standing) { s.Disabled = []string{"PerformHeartbeat"} }, false, DisabledByPolicy},
		"another disabled":          {nil, func(s *Standing) { s.Disabled = []string{"IsolateEndpoint"} }, false, ""},
		"no topic, no floor":        {nil, func(s *Standing) { s.Floor = now.Add(time.Hour) }, false, ""},
		"newer than the floor":      {isolate, func(s *Standing) { s.Floor = now.Add(-1) }, false, ""},
		"as old as the floor":       {isolate, func(s *Standing) { s.Floor = now }, false, Superseded},
		"its own floor":             {isolate, func(s *Standing) { s.Floor = now }, true, ""},
		"older than the floor":      {isolate, func(s *Standing) { s.Floor = now.Add(1) }, true, Superseded},
		"late before all else":      {func(m *agentv1.Action) { m.ExpiresAt = timestamppb.New(now); m.Parameters = nil }, nil, false, PastDeadline},
	} {
		e, _ := f.Action(me, c.change)
		a, err := ParseAction(e)
		if err != nil {
			t.Fatal(err)
		}
		s := standing
		if c.standing != nil {
			c.standing(&s)
		}
		if v := a.Judge(s, c.accepted); v.Reason != c.want || (v.Message == "") != (c.want == "") {
			t.Errorf("%s: %+v, want %q", name, v, c.want)
		}
	}
}

// Whatever was signed, judging it is no accident.
func FuzzAction(f *testing.F) {
	f.Add([]byte(`{"fleetId":"0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02","identityId":"0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02","actionUid":"0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02","issuedAt":"2026-11-24T12:00:00Z","expiresAt":"2026-11-24T13:00:00Z","activeDeadline":"60s","performHeartbeat":{},"reason":"a"}`))
	f.Add([]byte(`{"terminateProcess":{"grace":"-1s"},"requires":["x"]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		a, err := ParseAction(&agentv1.Envelope{PayloadType: string(envelope.Action), Payload: payload})
		if err != nil {
			return
		}
		v := a.Judge(Standing{Now: now, Capabilities: []string{"PerformHeartbeat", "TerminateProcess"}}, false)
		if v.Reason == "" && (a.Type != "PerformHeartbeat" && a.Type != "TerminateProcess" || !now.Before(a.ExpiresAt())) {
			t.Errorf("accepts %s", payload)
		}
	})
}
