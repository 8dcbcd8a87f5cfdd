package heartbeat

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func TestBlocks(t *testing.T) {
	uid := "5f7a3c2e-0000-4000-8000-0000000000aa"
	m := &agentv1.Heartbeat{
		Agent: &agentv1.AgentInfo{
			Version: "8.0.0", MachineId: strings.Repeat("d", 64), JournalId: strings.Repeat("e", 32), JournalCreatedAt: timestamppb.New(start.Add(1234567)),
		},
		TrustVersion: 2, PolicyId: uid, PolicyRevision: 3, RejectedOrders: 1, LastRejection: "SignatureInvalid", JournalFull: true,
		Content:      &agentv1.ReleaseState{Version: "1041", Phase: agentv1.ReleasePhase_RELEASE_PHASE_FAILED, Reason: "DigestDiffers", Message: "not what was signed"},
		AgentRelease: &agentv1.ReleaseState{Version: "8.0.0", Phase: agentv1.ReleasePhase_RELEASE_PHASE_CURRENT, Reason: "Old"},
		State: &agentv1.EndpointState{Isolated: true, IsolationActionUid: uid, ProxyUrl: "http://proxy:3128", QuarantinedFiles: 2, Quarantine: []*agentv1.FileResult{
			{Path: "/tmp/x", Sha256: strings.Repeat("f", 64), QuarantineId: uid, QuarantinedAt: timestamppb.New(start)},
			{Path: "/tmp/y", Sha256: strings.Repeat("f", 64), QuarantineId: uid, QuarantinedAt: timestamppb.New(start)},
		}},
		ClockSkew: durationpb.New(-14 * time.Second),
		Inventory: &agentv1.Inventory{
			Hostname: strings.Repeat("h", 253), OsName: "debian", OsVersion: "12", Kernel: "6.1.0", CpuCount: 8, MemoryTotal: 16_000 << 20, Arch: "amd64",
			BootTime: timestamppb.New(start.Add(999 * time.Millisecond)),
			Interfaces: []*agentv1.NetworkInterface{
				{Name: "lo", Addresses: []string{"127.0.0.1", "::1"}},
				{Name: "eth0", Addresses: []string{"192.0.2.7/24", "fe80::1%eth0", "2001:db8::7", "192.0.2.7", "nonsense"}},
			},
		},
	}
	agent := agentBlock(m, capabilityNames(&agentv1.Capabilities{Names: []string{"B", "A", "B"}}), 0)
	wantAgent := &v1alpha1.EndpointAgent{
		Version: "8.0.0", ContentVersion: "1041", ContentError: "DigestDiffers: not what was signed", PolicyID: uid, PolicyRevision: 3, Capabilities: []v1alpha1.Text{"A", "B"},
		Isolation: v1alpha1.Isolated, IsolationActionUID: uid, Proxy: "http://proxy:3128", JournalID: strings.Repeat("e", 32),
		JournalTime: &metav1.MicroTime{Time: start.Add(1234 * time.Microsecond)}, JournalFull: true, RejectedOrders: 1, LastRejection: "SignatureInvalid", TrustVersion: 2,
		ClockSkewSeconds: ptr.To[int32](-10), Quarantined: 2,
		Quarantine: []v1alpha1.QuarantinedFile{{ID: uid, Path: "/tmp/x", SHA256: v1alpha1.SHA256(strings.Repeat("f", 64)), QuarantinedTime: metav1.Time{Time: start}}},
	}
	if diff := cmp.Diff(wantAgent, agent); diff != "" {
		t.Errorf("agent (-want +got):\n%s", diff)
	}
	wantInventory := &v1alpha1.EndpointInventory{
		Hostname: v1alpha1.Text(strings.Repeat("h", 128)), MachineID: v1alpha1.Text(strings.Repeat("d", 64)),
		OS:        &v1alpha1.EndpointOS{Name: "debian", Version: "12", Kernel: "6.1.0", Arch: "amd64"},
		Addresses: []v1alpha1.Text{"192.0.2.7", "2001:db8::7"}, CPUs: 8, MemoryMiB: 16_000, BootTime: &metav1.Time{Time: start},
	}
	if diff := cmp.Diff(wantInventory, inventoryBlock(m)); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
}

func TestSkewIsRoundedAndSteady(t *testing.T) {
	for _, test := range []struct {
		seconds float64
		before  int32
		want    int32
	}{
		{0, 0, 0},
		{9.9, 0, 0},
		{-9.9, -10, 0},
		{10, 0, 10},
		{14.9, 0, 10},
		{15.1, 0, 20},
		{15.1, 10, 10},
		{19.9, 10, 10},
		{20, 10, 20},
		{-25, -20, -20},
		{-300, 0, -300},
		{math.MaxInt32, 0, math.MaxInt32 / 10 * 10},
		{-math.MaxInt32, 0, -math.MaxInt32 / 10 * 10},
	} {
		if got := roundSkew(time.Duration(test.seconds*float64(time.Second)), test.before); got != test.want {
			t.Errorf("%g s after %d: %d, want %d", test.seconds, test.before, got, test.want)
		}
	}
}

// FuzzBlocks: whatever an agent says within the bounds of the protocol, the API takes what is written of it.
func FuzzBlocks(f *testing.F) {
	m := heartbeat(whole)
	seed, err := m.MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &agentv1.Heartbeat{}
		if m.UnmarshalVT(data) != nil || wire.CheckHeartbeat(m) != nil {
			return
		}
		a := agentBlock(m, capabilityNames(m.GetCapabilities()), 0)
		i := inventoryBlock(m)
		texts := append([]v1alpha1.Text{a.Version, a.ContentVersion, a.LastRejection, a.Proxy, i.Hostname, i.MachineID, i.Model}, a.Capabilities...)
		texts = append(texts, i.Addresses...)
		if i.OS != nil {
			texts = append(texts, i.OS.Name, i.OS.Version, i.OS.Kernel, i.OS.Arch)
		}
		for _, s := range texts {
			if len(s) > 128 || !utf8.ValidString(string(s)) {
				t.Errorf("%q is no Text", s)
			}
		}
		if len(a.ContentError) > 256 || len(a.UpgradeError) > 256 || len(a.Capabilities) > 32 || len(i.Addresses) > 8 || len(a.Quarantine) > 10 {
			t.Errorf("too long: %+v %+v", a, i)
		}
		if s := slices.Clone(a.Capabilities); len(slices.Compact(s)) != len(a.Capabilities) {
			t.Error("a capability twice")
		}
		if a.PolicyRevision < 0 || a.RejectedOrders < 0 || a.TrustVersion < 0 || i.CPUs < 0 || i.MemoryMiB < 0 || a.Quarantined < 0 {
			t.Errorf("negative: %+v %+v", a, i)
		}
	})
}

// BenchmarkBeat is what almost every heartbeat costs: nothing is new in it.
func BenchmarkBeat(b *testing.B) {
	for name, via := range map[string]Via{"over HTTPS": {Address: home}, "on a session": {Address: home, Session: true}} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(&testing.T{})
			agent, reply := w.agent(), &agentv1.HeartbeatReply{}
			beat := func(m *agentv1.Heartbeat) {
				m.Agent.SessionNumber = 1
				reply.Send, reply.Orders, reply.More = nil, nil, false
				if p := w.service.Beat(agent, m, nil, via, w.now, reply); p != nil {
					b.Fatal(p)
				}
			}
			beat(heartbeat(whole))
			w.source.writes = nil
			m := heartbeat(nil)
			b.ReportAllocs()
			for b.Loop() {
				beat(m)
			}
			if len(w.source.writes) > 0 {
				b.Fatal("it was written")
			}
		})
	}
}
