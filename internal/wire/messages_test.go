package wire

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

const (
	someUUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
	someTime = 1_790_000_000
)

func hexDigits(n int) string            { return strings.Repeat("0a", n/2) }
func at() *timestamppb.Timestamp        { return &timestamppb.Timestamp{Seconds: someTime, Nanos: 5} }
func second(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }

func sealed(t envelope.Type) *agentv1.Envelope {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	e, err := envelope.Sign(key, t, []byte(`{}`))
	if err != nil {
		panic(err)
	}
	return e
}

// fullHeartbeat has every field set to something good.
func fullHeartbeat() *agentv1.Heartbeat {
	return &agentv1.Heartbeat{
		Agent: &agentv1.AgentInfo{
			Version: "8.0.0", Platform: "linux/amd64", InstanceId: hexDigits(32), Epoch: 3, SessionNumber: 1, MachineId: hexDigits(64),
			BootId: hexDigits(64), JournalId: hexDigits(32), JournalCreatedAt: at(),
		},
		SentAt: at(), TrustVersion: 2, AssignmentIssuedAt: at(), PolicyId: someUUID, PolicyRevision: 7,
		Content:      &agentv1.ReleaseState{Version: "2026.11", Digest: hexDigits(64), Sequence: 4, Phase: agentv1.ReleasePhase_RELEASE_PHASE_CURRENT, Reason: "Done", Message: "fine"},
		AgentRelease: &agentv1.ReleaseState{Version: "8.0.0", Digest: hexDigits(64), Sequence: 1, Reason: "Done", Message: "fine"},
		State: &agentv1.EndpointState{
			Isolated: true, IsolationActionUid: someUUID, ProxyUrl: "http://proxy:3128", ProxyActionUid: someUUID, QuarantinedFiles: 1,
			Quarantine: []*agentv1.FileResult{{
				Path: "/tmp/x", Sha256: hexDigits(64), Size: 1, UploadId: "u", Error: "e", QuarantineId: someUUID, QuarantinedAt: at(),
			}},
		},
		Vitals:          &agentv1.Vitals{Uptime: second(5), MemoryTotal: 1, MemoryAvailable: 1, DiskTotal: 1, DiskFree: 1, Load1: 0.5},
		OpenActions:     []*agentv1.ActionState{{ActionUid: someUUID, Phase: agentv1.ActionPhase_ACTION_PHASE_RUNNING}},
		CapabilitiesTag: "c1", Capabilities: &agentv1.Capabilities{Names: []string{"PerformHeartbeat"}},
		InventoryTag: "i1",
		Inventory: &agentv1.Inventory{
			Hostname: "laptop", OsName: "Debian", OsVersion: "13", Kernel: "6.12", CpuModel: "x", CpuCount: 8,
			Interfaces: []*agentv1.NetworkInterface{{Name: "eth0", Mac: "02:00:00:00:00:01", Addresses: []string{"192.0.2.1"}}},
			Disks:      []*agentv1.Disk{{Mount: "/", Filesystem: "ext4", Total: 2, Free: 1}},
			BootTime:   at(), MemoryTotal: 1, Model: "m", Arch: "amd64",
		},
		ClockSkew: second(-3), BeaconAge: second(20), RejectedOrders: 1, LastRejection: "Superseded", SpooledEvents: 1, JournalFull: true,
		SessionError: "the upgrade was answered with 403",
	}
}

func fullReply() *agentv1.HeartbeatReply {
	return &agentv1.HeartbeatReply{
		ServerTime: at(), Beacon: sealed(envelope.Beacon), Orders: []*agentv1.Envelope{sealed(envelope.Policy)}, More: true,
		Send: []agentv1.Section{agentv1.Section_SECTION_INVENTORY}, Features: []string{"f"}, Gateway: "gw-1",
	}
}

func fullUpdate() *agentv1.ActionUpdate {
	return &agentv1.ActionUpdate{
		ActionUid: someUUID, Phase: agentv1.ActionPhase_ACTION_PHASE_FINISHED, Percent: 100, Message: "2 of 2", Result: sealed(envelope.Result),
	}
}

func fullProblem() *agentv1.Problem {
	return &agentv1.Problem{
		Type: problemBase + "malformed", Title: "The request is malformed", Status: 400, Detail: "Do this.", Instance: "i", RetryAfter: 5,
		Minimum: "6.1", Supported: []string{"a"},
	}
}

func fullAction() *agentv1.Action {
	return &agentv1.Action{
		FleetId: someUUID, IdentityId: someUUID, ActionUid: someUUID, IssuedAt: at(), ExpiresAt: at(), Requires: []string{"PerformHeartbeat"},
		RequestedBy: "helpdesk", Reason: "a look", ActiveDeadline: second(60), Parameters: &agentv1.Action_PerformHeartbeat{PerformHeartbeat: &agentv1.PerformHeartbeat{}},
	}
}

// withParameters are actions with parameters that have bounds, every field of theirs set to something good.
func withParameters() (all []checked) {
	for field, set := range map[string]func(*agentv1.Action){
		"quarantine_file": func(m *agentv1.Action) {
			m.Parameters = &agentv1.Action_QuarantineFile{QuarantineFile: &agentv1.QuarantineFile{Path: "/tmp/x", Sha256: hexDigits(64)}}
		},
		"restore_file": func(m *agentv1.Action) {
			m.Parameters = &agentv1.Action_RestoreFile{RestoreFile: &agentv1.RestoreFile{QuarantineId: someUUID, Path: "/tmp/x", Overwrite: true}}
		},
		"terminate_process": func(m *agentv1.Action) {
			m.Parameters = &agentv1.Action_TerminateProcess{TerminateProcess: &agentv1.TerminateProcess{
				Pid: 4711, StartTime: at(), Executable: "/usr/bin/sleep", Sha256: hexDigits(64), Tree: true, Grace: second(5),
			}}
		},
		"isolate_endpoint": func(m *agentv1.Action) {
			m.Parameters = &agentv1.Action_IsolateEndpoint{IsolateEndpoint: &agentv1.IsolateEndpoint{Allow: []string{"192.0.2.0/24"}}}
		},
		"live_terminal": func(m *agentv1.Action) {
			m.Parameters = &agentv1.Action_LiveTerminal{LiveTerminal: &agentv1.LiveTerminal{
				User: "root", Command: []string{"sh", "-c", "id\nuptime"}, IdleTimeout: second(600),
			}}
		},
		"set_endpoint_proxy": func(m *agentv1.Action) {
			m.Parameters = &agentv1.Action_SetEndpointProxy{SetEndpointProxy: &agentv1.SetEndpointProxy{Url: "http://proxy:3128", Trial: second(60)}}
		},
		"retrieve_files": func(m *agentv1.Action) {
			m.Parameters = &agentv1.Action_RetrieveFiles{RetrieveFiles: &agentv1.RetrieveFiles{Paths: []string{"/var/log/**"}, MaxBytes: 1 << 20}}
		},
		"retrieve_security_event_data": func(m *agentv1.Action) {
			m.Parameters = &agentv1.Action_RetrieveSecurityEventData{
				RetrieveSecurityEventData: &agentv1.RetrieveSecurityEventData{EventIds: []string{someUUID}},
			}
		},
	} {
		all = append(all, kind(func() *agentv1.Action {
			m := fullAction()
			set(m)
			return m
		}, CheckAction).as("Action with "+field))
	}
	return all
}

// checked is a kind of message with its check and one that has every field set to something good.
type checked struct {
	name  string
	full  func() Message
	check func(Message) error
}

func kind[M Message](full func() M, check func(M) error) checked {
	return checked{
		name: string(full().ProtoReflect().Descriptor().Name()),
		full: func() Message { return full() },
		check: func(m Message) error {
			one, ok := m.(M)
			if !ok {
				return fmt.Errorf("%T instead", m)
			}
			return check(one)
		},
	}
}

// as names the kind in the tables, where a message has more than one.
func (k checked) as(name string) checked {
	k.name = name
	return k
}

// kinds are all messages that have bounds.
var kinds = append(withParameters(),
	kind(fullHeartbeat, CheckHeartbeat),
	kind(func() *agentv1.EnrollRequest {
		return &agentv1.EnrollRequest{Enrollment: sealed(envelope.Enrollment)}
	}, CheckEnrollRequest),
	kind(func() *agentv1.RenewRequest { return &agentv1.RenewRequest{Renewal: sealed(envelope.Renewal)} }, CheckRenewRequest),
	kind(func() *agentv1.Enrollment {
		return &agentv1.Enrollment{
			FleetId: someUUID, TokenUid: someUUID, Csr: []byte{1}, Hostname: "laptop", MachineId: hexDigits(64), AgentVersion: "8.0.0", CreatedAt: at(),
		}
	}, CheckEnrollment),
	kind(func() *agentv1.Renewal {
		return &agentv1.Renewal{FleetId: someUUID, IdentityId: someUUID, Certificate: []byte{1}, Csr: []byte{1}, CreatedAt: at()}
	}, CheckRenewal),
	kind(func() *agentv1.TrustReply {
		return &agentv1.TrustReply{Bundles: []*agentv1.Envelope{sealed(envelope.Trust)}}
	}, CheckTrustReply),
	kind(func() *agentv1.TrustBundle {
		use := []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_ROOT, agentv1.KeyUse_KEY_USE_ORDERS}
		return &agentv1.TrustBundle{
			FleetId: someUUID, Version: 1, IssuedAt: at(), Keys: []*agentv1.TrustKey{{Spki: []byte{1}, Uses: use}, {Spki: []byte{2}, Uses: use}},
			ServerCa: [][]byte{{1}}, AgentCa: [][]byte{{1}}, ResetTimeFloor: at(),
		}
	}, CheckTrustBundle),
	kind(func() *agentv1.CertificateReply { return &agentv1.CertificateReply{Certificate: []byte{1}} }, CheckCertificateReply),
	kind(fullReply, CheckHeartbeatReply),
	kind(func() *agentv1.AgentMessage {
		return &agentv1.AgentMessage{Id: 7, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: fullHeartbeat()}}
	}, CheckAgentMessage),
	kind(func() *agentv1.AgentMessage {
		return &agentv1.AgentMessage{Id: 7, Body: &agentv1.AgentMessage_Ping{Ping: &agentv1.Ping{}}}
	}, CheckAgentMessage).as("AgentMessage of a ping"),
	kind(func() *agentv1.ServerMessage {
		return &agentv1.ServerMessage{Re: 7, Body: &agentv1.ServerMessage_HeartbeatReply{HeartbeatReply: fullReply()}}
	}, CheckServerMessage),
	kind(func() *agentv1.ServerMessage {
		return &agentv1.ServerMessage{Body: &agentv1.ServerMessage_Orders{Orders: &agentv1.Orders{
			Orders: []*agentv1.Envelope{sealed(envelope.Policy)}, Beacon: sealed(envelope.Beacon), ServerTime: at(),
		}}}
	}, CheckServerMessage).as("ServerMessage of orders"),
	kind(func() *agentv1.ServerMessage {
		return &agentv1.ServerMessage{Re: 7, Body: &agentv1.ServerMessage_Problem{Problem: fullProblem()}}
	}, CheckServerMessage).as("ServerMessage of a problem"),
	kind(func() *agentv1.AgentMessage {
		return &agentv1.AgentMessage{Id: 7, Body: &agentv1.AgentMessage_ActionUpdate{ActionUpdate: fullUpdate()}}
	}, CheckAgentMessage).as("AgentMessage of an update"),
	kind(func() *agentv1.ServerMessage {
		return &agentv1.ServerMessage{Re: 7, Body: &agentv1.ServerMessage_Ack{Ack: &agentv1.Ack{Problem: fullProblem()}}}
	}, CheckServerMessage).as("ServerMessage of an ack"),
	kind(func() *agentv1.ActionUpdates {
		return &agentv1.ActionUpdates{Updates: []*agentv1.ActionUpdate{fullUpdate()}}
	}, CheckActionUpdates),
	kind(func() *agentv1.Acks { return &agentv1.Acks{Acks: []*agentv1.Ack{{Problem: fullProblem()}}} }, CheckAcks),
	kind(fullAction, CheckAction),
	kind(func() *agentv1.Cancel {
		return &agentv1.Cancel{
			FleetId: someUUID, IdentityId: someUUID, ActionUid: someUUID, IssuedAt: at(), ExpiresAt: at(), ActionDigest: hexDigits(64), ActionIssuedAt: at(),
		}
	}, CheckCancel),
	kind(func() *agentv1.ActionResult {
		return &agentv1.ActionResult{
			FleetId: someUUID, IdentityId: someUUID, ActionUid: someUUID, ActionDigest: hexDigits(64), Outcome: agentv1.Outcome_OUTCOME_FAILED,
			Reason: "TimedOut", Message: "It took too long.", StartedAt: at(), FinishedAt: at(),
			Files: []*agentv1.FileResult{{
				Path: "/tmp/x", Sha256: hexDigits(64), Size: 1, UploadId: "u", Error: "e", QuarantineId: someUUID, QuarantinedAt: at(),
			}},
			Processes: []*agentv1.ProcessInstance{{Pid: 4711, StartTime: at(), Executable: "/usr/bin/sleep"}}, Omitted: 3,
		}
	}, CheckActionResult),
	kind(func() *agentv1.Beacon {
		return &agentv1.Beacon{FleetId: someUUID, IssuedAt: at(), TrustVersion: 1}
	}, CheckBeacon),
	kind(func() *agentv1.Assignment {
		return &agentv1.Assignment{Namespace: "fleet", FleetId: someUUID, IdentityId: someUUID, IssuedAt: at(), PolicyId: someUUID}
	}, CheckAssignment),
	kind(func() *agentv1.Offer {
		return &agentv1.Offer{
			FleetId: someUUID, Namespace: "fleet", ReleaseUid: someUUID, Kind: agentv1.ReleaseKind_RELEASE_KIND_CONTENT, Version: "1042", Sequence: 1,
			Share: 10_000, IssuedAt: at(), ReleasedAt: at(), Withdrawn: []string{"1043"},
			Artifacts: []*agentv1.Artifact{{Platform: "linux/amd64", Sha256: hexDigits(64), Size: 1, MediaType: "text/plain", Signature: "a\nb"}},
		}
	}, CheckOffer),
	kind(func() *agentv1.Policy {
		return &agentv1.Policy{
			FleetId: someUUID, PolicyId: someUUID, Revision: 1, IssuedAt: at(), HeartbeatInterval: second(300), ReportInterval: second(3600),
			LogCollectionDisabled: true, DisabledActions: []string{"LiveTerminal"}, IsolationAllow: []string{"192.0.2.0/24"},
			ContentVersion: "2026.11", ContentDelayDays: 3, UpgradeAutomatic: true,
			Windows:                []*agentv1.MaintenanceWindow{{Days: []uint32{0}, StartMinute: 60, DurationMinutes: 60, TimeZone: "Europe/Berlin"}},
			DownloadBytesPerSecond: 1, PingInterval: second(30), WebsocketDisabled: true,
		}
	}, CheckPolicy),
)

func TestFullMessagesAreGood(t *testing.T) {
	for _, k := range kinds {
		for _, codec := range []Codec{Protobuf, JSON} {
			m := k.full()
			b, err := codec.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			got := k.full()
			proto.Reset(got)
			if err := codec.Unmarshal(b, got); err != nil {
				t.Fatalf("%s in %s: %v", k.name, codec.ContentType(), err)
			}
			if err := k.check(got); err != nil {
				t.Errorf("%s in %s: %v", k.name, codec.ContentType(), err)
			}
			if !proto.Equal(m, got) {
				t.Errorf("%s in %s came back as %v", k.name, codec.ContentType(), got)
			}
		}
	}
}
