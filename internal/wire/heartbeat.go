package wire

import (
	"math"
	"slices"
	"strconv"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// Bounds of a heartbeat.
const (
	MaxCapabilities   = 32
	MaxCapabilityName = 64
	MaxInterfaces     = 32
	MaxAddresses      = 16
	MaxDisks          = 16
	MaxInventoryBytes = 16 << 10
	MaxOpenActions    = 64
	MaxQuarantine     = 10
	MaxReason         = 64
	MaxHostname       = 253
	MaxCPUs           = 1 << 16
	// MaxSkew is the largest clock skew or age of a beacon that is reported; an agent whose own is larger says this.
	MaxSkew = math.MaxInt32 * time.Second
	maxLoad = 1e6
)

// CheckHeartbeat tells whether m keeps to its bounds. The error is a *BoundError. A good heartbeat costs no allocation.
func CheckHeartbeat(m *agentv1.Heartbeat) error { return heartbeat(m).err() }

func heartbeat(m *agentv1.Heartbeat) *BoundError {
	return first(
		required("agent", m.GetAgent() != nil),
		agentInfo(m.GetAgent()).in("agent"),
		moment("sent_at", m.GetSentAt(), true),
		number("trust_version", m.GetTrustVersion(), 0, MaxNumber),
		moment("assignment_issued_at", m.GetAssignmentIssuedAt(), true),
		uuid("policy_id", m.GetPolicyId(), true),
		number("policy_revision", m.GetPolicyRevision(), 0, MaxNumber),
		release(m.GetContent()).in("content"),
		release(m.GetAgentRelease()).in("agent_release"),
		state(m.GetState()).in("state"),
		vitals(m.GetVitals()).in("vitals"),
		each("open_actions", m.GetOpenActions(), 0, MaxOpenActions, openAction),
		text("capabilities_tag", m.GetCapabilitiesTag(), 0, MaxText),
		capabilities(m.GetCapabilities()).in("capabilities"),
		text("inventory_tag", m.GetInventoryTag(), 0, MaxText),
		inventory(m.GetInventory()).in("inventory"),
		span("clock_skew", m.GetClockSkew(), -MaxSkew, MaxSkew),
		span("beacon_age", m.GetBeaconAge(), 0, MaxSkew),
		number("rejected_orders", m.GetRejectedOrders(), 0, MaxNumber),
		text("last_rejection", m.GetLastRejection(), 0, MaxReason),
		number("spooled_events", m.GetSpooledEvents(), 0, MaxNumber),
		text("session_error", m.GetSessionError(), 0, MaxText),
	)
}

func agentInfo(m *agentv1.AgentInfo) *BoundError {
	if m == nil {
		return nil
	}
	return first(
		version("version", m.GetVersion()),
		text("platform", m.GetPlatform(), 1, MaxText),
		digits("instance_id", m.GetInstanceId(), 32, false),
		number("epoch", m.GetEpoch(), 1, MaxNumber),
		number("session_number", m.GetSessionNumber(), 0, MaxNumber),
		digits("machine_id", m.GetMachineId(), 64, true),
		digits("boot_id", m.GetBootId(), 64, true),
		digits("journal_id", m.GetJournalId(), 32, true),
		moment("journal_created_at", m.GetJournalCreatedAt(), true),
	)
}

func release(m *agentv1.ReleaseState) *BoundError {
	if m == nil {
		return nil
	}
	return first(
		text("version", m.GetVersion(), 0, MaxVersion),
		digits("digest", m.GetDigest(), 64, true),
		number("sequence", m.GetSequence(), 0, MaxNumber),
		text("reason", m.GetReason(), 0, MaxReason),
		text("message", m.GetMessage(), 0, MaxText),
	)
}

func state(m *agentv1.EndpointState) *BoundError {
	if m == nil {
		return nil
	}
	return first(
		uuid("isolation_action_uid", m.GetIsolationActionUid(), true),
		text("proxy_url", m.GetProxyUrl(), 0, MaxProxyURL),
		uuid("proxy_action_uid", m.GetProxyActionUid(), true),
		number("quarantined_files", uint64(m.GetQuarantinedFiles()), 0, math.MaxInt32),
		each("quarantine", m.GetQuarantine(), 0, MaxQuarantine, quarantined),
	)
}

// quarantined is a file in the vault, of which that much is known.
func quarantined(m *agentv1.FileResult) *BoundError { return file(m, false) }

// file was one that an action was about. What names it beside its path may be left out where that is allowed.
func file(m *agentv1.FileResult, optional bool) *BoundError {
	return first(
		text("path", m.GetPath(), 1, MaxText),
		digits("sha256", m.GetSha256(), 64, optional),
		number("size", m.GetSize(), 0, MaxNumber),
		text("upload_id", m.GetUploadId(), 0, MaxText),
		text("error", m.GetError(), 0, MaxText),
		uuid("quarantine_id", m.GetQuarantineId(), optional),
		moment("quarantined_at", m.GetQuarantinedAt(), optional),
	)
}

func vitals(m *agentv1.Vitals) *BoundError {
	if m == nil {
		return nil
	}
	if load := m.GetLoad1(); !(load >= 0 && load <= maxLoad) { // NaN is in no range
		return &BoundError{"load1", "from 0 to 1000000"}
	}
	return span("uptime", m.GetUptime(), 0, math.MaxInt64)
}

func openAction(m *agentv1.ActionState) *BoundError {
	return uuid("action_uid", m.GetActionUid(), false)
}

func capabilities(m *agentv1.Capabilities) *BoundError {
	names := m.GetNames()
	if e := each("names", names, 0, MaxCapabilities, func(s string) *BoundError { return text("", s, 1, MaxCapabilityName) }); e != nil {
		return e
	}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return &BoundError{"names", "without repetition"}
		}
	}
	return nil
}

func inventory(m *agentv1.Inventory) *BoundError {
	if m == nil {
		return nil
	}
	if e := first(
		text("hostname", m.GetHostname(), 0, MaxHostname),
		text("os_name", m.GetOsName(), 0, MaxText),
		text("os_version", m.GetOsVersion(), 0, MaxText),
		text("kernel", m.GetKernel(), 0, MaxText),
		text("cpu_model", m.GetCpuModel(), 0, MaxText),
		number("cpu_count", uint64(m.GetCpuCount()), 0, MaxCPUs),
		each("interfaces", m.GetInterfaces(), 0, MaxInterfaces, networkInterface),
		each("disks", m.GetDisks(), 0, MaxDisks, disk),
		moment("boot_time", m.GetBootTime(), true),
		text("model", m.GetModel(), 0, MaxText),
		text("arch", m.GetArch(), 0, MaxText),
	); e != nil {
		return e
	}
	if m.SizeVT() > MaxInventoryBytes {
		return &BoundError{"", "at most " + strconv.Itoa(MaxInventoryBytes) + " bytes in protobuf"}
	}
	return nil
}

func networkInterface(m *agentv1.NetworkInterface) *BoundError {
	return first(
		text("name", m.GetName(), 1, MaxText),
		text("mac", m.GetMac(), 0, MaxText),
		each("addresses", m.GetAddresses(), 0, MaxAddresses, func(s string) *BoundError { return text("", s, 1, MaxText) }),
	)
}

func disk(m *agentv1.Disk) *BoundError {
	return first(
		text("mount", m.GetMount(), 1, MaxText),
		text("filesystem", m.GetFilesystem(), 0, MaxText),
	)
}
