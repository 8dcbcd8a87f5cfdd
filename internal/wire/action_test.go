package wire

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// What no single field can be blamed for.
func TestBoundsAcrossFields(t *testing.T) {
	terminate := func(p *agentv1.TerminateProcess) error {
		m := fullAction()
		m.Parameters = &agentv1.Action_TerminateProcess{TerminateProcess: p}
		return CheckAction(m)
	}
	quarantine := func(p *agentv1.QuarantineFile) error {
		m := fullAction()
		m.Parameters = &agentv1.Action_QuarantineFile{QuarantineFile: p}
		return CheckAction(m)
	}
	update := func(phase agentv1.ActionPhase, result *agentv1.Envelope) error {
		one := &agentv1.ActionUpdate{ActionUid: someUUID, Phase: phase, Result: result}
		return CheckActionUpdates(&agentv1.ActionUpdates{Updates: []*agentv1.ActionUpdate{one}})
	}
	const (
		unidentified = "terminate_process must be identified by pid, executable or sha256"
		apart        = "terminate_process.start_time must be present exactly when pid is"
		early        = "updates[0].result must be absent before the phase FINISHED"
		none         = "updates[0].result must be an envelope of type application/vnd.rollcall.result.v1+json"
	)
	for name, tc := range map[string]struct {
		got  error
		want string
	}{
		"a process by pid and start":     {terminate(&agentv1.TerminateProcess{Pid: 2, StartTime: at()}), ""},
		"processes by executable":        {terminate(&agentv1.TerminateProcess{Executable: "/bin/x"}), ""},
		"processes by digest":            {terminate(&agentv1.TerminateProcess{Sha256: hexDigits(64)}), ""},
		"any process":                    {terminate(&agentv1.TerminateProcess{Tree: true, Grace: second(1)}), unidentified},
		"a process by its start":         {terminate(&agentv1.TerminateProcess{StartTime: at()}), unidentified},
		"a pid alone":                    {terminate(&agentv1.TerminateProcess{Pid: 2}), apart},
		"a pid alone, with its program":  {terminate(&agentv1.TerminateProcess{Pid: 2, Executable: "/bin/x"}), apart},
		"a start without a pid":          {terminate(&agentv1.TerminateProcess{StartTime: at(), Executable: "/bin/x"}), apart},
		"a file by path":                 {quarantine(&agentv1.QuarantineFile{Path: "/x"}), ""},
		"files by digest":                {quarantine(&agentv1.QuarantineFile{Sha256: hexDigits(64)}), ""},
		"any file":                       {quarantine(&agentv1.QuarantineFile{}), "quarantine_file must be identified by path or sha256"},
		"running":                        {update(agentv1.ActionPhase_ACTION_PHASE_RUNNING, nil), ""},
		"running, with a result":         {update(agentv1.ActionPhase_ACTION_PHASE_RUNNING, sealed(envelope.Result)), early},
		"no phase":                       {update(agentv1.ActionPhase_ACTION_PHASE_UNSPECIFIED, nil), ""},
		"a phase of a later version":     {update(99, nil), ""},
		"no phase, with a result":        {update(agentv1.ActionPhase_ACTION_PHASE_UNSPECIFIED, sealed(envelope.Result)), early},
		"finished":                       {update(agentv1.ActionPhase_ACTION_PHASE_FINISHED, sealed(envelope.Result)), ""},
		"finished, without a result":     {update(agentv1.ActionPhase_ACTION_PHASE_FINISHED, nil), none},
		"finished, with an order":        {update(agentv1.ActionPhase_ACTION_PHASE_FINISHED, sealed(envelope.Action)), none},
		"an acknowledgement and nothing": {CheckAcks(&agentv1.Acks{Acks: []*agentv1.Ack{{}}}), ""},
	} {
		if tc.want == "" && tc.got != nil || tc.want != "" && (tc.got == nil || tc.got.Error() != tc.want) {
			t.Errorf("%s: %v, want %q", name, tc.got, tc.want)
		}
	}
}

// An agent answers an action of which it understands no more than whom it is for, which it is, and when.
func TestActionHead(t *testing.T) {
	for _, b := range actionHeadBounds {
		for _, v := range b.bad {
			m := fullAction()
			set(t, m.ProtoReflect(), b.field, v)
			var e *BoundError
			if err := CheckActionHead(m); !errors.As(err, &e) || e.Field != b.field {
				t.Errorf("%s = %s: %v", b.field, show(v), err)
			}
		}
	}
	for _, field := range []string{"requires", "requested_by", "reason", "active_deadline"} {
		m := fullAction()
		set(t, m.ProtoReflect(), field, map[string]any{
			"requires": count(9), "requested_by": letters(257), "reason": "\n", "active_deadline": unset{},
		}[field])
		if err := CheckActionHead(m); err != nil || CheckAction(m) == nil {
			t.Errorf("%s, out of its bound: %v as a head, %v as a whole", field, err, CheckAction(m))
		}
	}
}

// What an agent of today is told to do by a manager of tomorrow is not malformed: the agent says that it cannot.
func TestUnknownParameters(t *testing.T) {
	m := fullAction()
	m.Parameters = nil
	head, err := JSON.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	got := &agentv1.Action{}
	if err := JSON.Unmarshal(append(head[:len(head)-1], `,"wipeEndpoint":{"really":true}}`...), got); err != nil || !proto.Equal(got, m) {
		t.Fatalf("%v, %v", got, err)
	}
	if err := CheckAction(got); err != nil || got.GetParameters() != nil {
		t.Errorf("%v: %v", got, err)
	}
}
