package wire

import (
	"math"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// Bounds of what an agent says of actions.
const (
	MaxUpdates         = 32
	MaxPercent         = 100
	MaxResultMessage   = 1 << 10
	MaxResultFiles     = 64
	MaxResultProcesses = 128
	maxOmitted         = math.MaxInt32
)

// CheckActionUpdates tells whether m keeps to its bounds. Nothing is verified. The error is a *BoundError.
func CheckActionUpdates(m *agentv1.ActionUpdates) error {
	return each("updates", m.GetUpdates(), 1, MaxUpdates, actionUpdate).err()
}

func actionUpdate(m *agentv1.ActionUpdate) *BoundError {
	return first(
		uuid("action_uid", m.GetActionUid(), false),
		number("percent", uint64(m.GetPercent()), 0, MaxPercent),
		text("message", m.GetMessage(), 0, MaxText),
		updateResult(m),
	)
}

func updateResult(m *agentv1.ActionUpdate) *BoundError {
	switch {
	case m.GetPhase() == agentv1.ActionPhase_ACTION_PHASE_FINISHED:
		return signed("result", m.GetResult(), envelope.Result)
	case m.GetResult() != nil:
		return &BoundError{"result", "absent before the phase FINISHED"}
	}
	return nil
}

// CheckAcks tells whether m keeps to its bounds, whatever it answers. The error is a *BoundError.
func CheckAcks(m *agentv1.Acks) error { return each("acks", m.GetAcks(), 1, MaxUpdates, ack).err() }

func ack(m *agentv1.Ack) *BoundError {
	if m.GetProblem() == nil {
		return nil
	}
	return problem(m.GetProblem()).in("problem")
}

// CheckActionResult tells whether the payload of a result keeps to its bounds. The error is a *BoundError.
func CheckActionResult(m *agentv1.ActionResult) error {
	return first(
		uuid("fleet_id", m.GetFleetId(), false),
		uuid("identity_id", m.GetIdentityId(), false),
		uuid("action_uid", m.GetActionUid(), false),
		digits("action_digest", m.GetActionDigest(), 64, false),
		word("reason", m.GetReason()),
		text("message", m.GetMessage(), 0, MaxResultMessage),
		moment("started_at", m.GetStartedAt(), true),
		moment("finished_at", m.GetFinishedAt(), false),
		each("files", m.GetFiles(), 0, MaxResultFiles, func(f *agentv1.FileResult) *BoundError { return file(f, true) }),
		each("processes", m.GetProcesses(), 0, MaxResultProcesses, process),
		number("omitted", uint64(m.GetOmitted()), 0, maxOmitted),
	).err()
}

func process(m *agentv1.ProcessInstance) *BoundError {
	return first(moment("start_time", m.GetStartTime(), true), text("executable", m.GetExecutable(), 0, MaxText))
}
