package wire

import (
	"strings"
	"time"
	"unicode/utf8"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// Bounds of an action.
const (
	MaxRequires       = 8
	MinActiveDeadline = time.Second
	MaxActiveDeadline = 24 * time.Hour

	MaxPath        = 4096
	MinPID         = 2
	MaxPID         = 1 << 22
	MaxGrace       = 300 * time.Second
	MaxAllow       = 32
	MaxArguments   = 64
	MaxArgument    = 4096
	MinIdleTimeout = 30 * time.Second
	MaxIdleTimeout = 2 * time.Hour
	MaxProxyURL    = 261
	MinProxyTrial  = time.Second
	MaxProxyTrial  = time.Hour
	MaxPaths       = 32
	MaxRetrieve    = 10 << 30 // bytes
	MaxEventIDs    = 64
)

// CheckAction tells whether the payload of an action keeps to its bounds. One with parameters that this version does not know does; what
// CheckActionHead lets through and CheckAction does not is refused as Unsupported. The error is a *BoundError.
func CheckAction(m *agentv1.Action) error {
	return first(actionHead(m), actionBody(m), parameters(m)).err()
}

// CheckActionHead tells whether that much of an action keeps to its bounds that an agent can answer it: whom it is for, which it is, and
// when. The error is a *BoundError.
func CheckActionHead(m *agentv1.Action) error { return actionHead(m).err() }

func actionHead(m *agentv1.Action) *BoundError {
	return first(
		uuid("fleet_id", m.GetFleetId(), false),
		uuid("identity_id", m.GetIdentityId(), false),
		uuid("action_uid", m.GetActionUid(), false),
		moment("issued_at", m.GetIssuedAt(), false),
		moment("expires_at", m.GetExpiresAt(), false),
	)
}

func actionBody(m *agentv1.Action) *BoundError {
	return first(
		each("requires", m.GetRequires(), 0, MaxRequires, func(s string) *BoundError { return text("", s, 1, MaxCapabilityName) }),
		text("requested_by", m.GetRequestedBy(), 0, MaxText),
		text("reason", m.GetReason(), 0, MaxText),
		required("active_deadline", m.GetActiveDeadline() != nil),
		span("active_deadline", m.GetActiveDeadline(), MinActiveDeadline, MaxActiveDeadline),
	)
}

func parameters(m *agentv1.Action) *BoundError {
	switch p := m.GetParameters().(type) {
	case *agentv1.Action_QuarantineFile:
		return quarantineFile(p.QuarantineFile).in("quarantine_file")
	case *agentv1.Action_RestoreFile:
		return restoreFile(p.RestoreFile).in("restore_file")
	case *agentv1.Action_TerminateProcess:
		return terminateProcess(p.TerminateProcess).in("terminate_process")
	case *agentv1.Action_IsolateEndpoint:
		return each("allow", p.IsolateEndpoint.GetAllow(), 0, MaxAllow, network).in("isolate_endpoint")
	case *agentv1.Action_LiveTerminal:
		return liveTerminal(p.LiveTerminal).in("live_terminal")
	case *agentv1.Action_SetEndpointProxy:
		return setEndpointProxy(p.SetEndpointProxy).in("set_endpoint_proxy")
	case *agentv1.Action_RetrieveFiles:
		return retrieveFiles(p.RetrieveFiles).in("retrieve_files")
	case *agentv1.Action_RetrieveSecurityEventData:
		return each("event_ids", p.RetrieveSecurityEventData.GetEventIds(), 1, MaxEventIDs, func(s string) *BoundError {
			return text("", s, 1, MaxText)
		}).in("retrieve_security_event_data")
	}
	return nil
}

func quarantineFile(m *agentv1.QuarantineFile) *BoundError {
	if m.GetPath() == "" && m.GetSha256() == "" {
		return &BoundError{"", "identified by path or sha256"}
	}
	return first(path("path", m.GetPath(), true), digits("sha256", m.GetSha256(), 64, true))
}

func restoreFile(m *agentv1.RestoreFile) *BoundError {
	return first(uuid("quarantine_id", m.GetQuarantineId(), false), path("path", m.GetPath(), true))
}

func terminateProcess(m *agentv1.TerminateProcess) *BoundError {
	if m.GetPid() == 0 && m.GetExecutable() == "" && m.GetSha256() == "" {
		return &BoundError{"", "identified by pid, executable or sha256"}
	}
	if (m.GetPid() == 0) != (m.GetStartTime() == nil) {
		return &BoundError{"start_time", "present exactly when pid is"}
	}
	return first(
		pid(m.GetPid()),
		moment("start_time", m.GetStartTime(), true),
		path("executable", m.GetExecutable(), true),
		digits("sha256", m.GetSha256(), 64, true),
		span("grace", m.GetGrace(), 0, MaxGrace),
	)
}

// pid is that of a process that may be ended, or unset.
func pid(n uint32) *BoundError {
	if n == 0 {
		return nil
	}
	return number("pid", uint64(n), MinPID, MaxPID)
}

func liveTerminal(m *agentv1.LiveTerminal) *BoundError {
	return first(
		text("user", m.GetUser(), 0, MaxText),
		each("command", m.GetCommand(), 0, MaxArguments, argument),
		span("idle_timeout", m.GetIdleTimeout(), MinIdleTimeout, MaxIdleTimeout),
	)
}

// argument is what a program can be started with.
func argument(s string) *BoundError {
	if len(s) <= MaxArgument && utf8.ValidString(s) && !strings.Contains(s, "\x00") {
		return nil
	}
	return &BoundError{"", between(0, MaxArgument, "bytes of UTF-8 without NUL")}
}

func setEndpointProxy(m *agentv1.SetEndpointProxy) *BoundError {
	return first(proxyURL("url", m.GetUrl()), span("trial", m.GetTrial(), MinProxyTrial, MaxProxyTrial))
}

func retrieveFiles(m *agentv1.RetrieveFiles) *BoundError {
	return first(
		each("paths", m.GetPaths(), 1, MaxPaths, func(s string) *BoundError { return path("", s, false) }),
		number("max_bytes", m.GetMaxBytes(), 0, MaxRetrieve),
	)
}

// CheckCancel tells whether the payload of a cancel keeps to its bounds. The error is a *BoundError.
func CheckCancel(m *agentv1.Cancel) error {
	return first(
		uuid("fleet_id", m.GetFleetId(), false),
		uuid("identity_id", m.GetIdentityId(), false),
		uuid("action_uid", m.GetActionUid(), false),
		moment("issued_at", m.GetIssuedAt(), false),
		moment("expires_at", m.GetExpiresAt(), false),
		digits("action_digest", m.GetActionDigest(), 64, false),
		moment("action_issued_at", m.GetActionIssuedAt(), false),
	).err()
}
