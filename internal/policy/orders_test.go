package policy

import (
	"crypto"
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

const (
	fleetID = "7b1e3f4c-52a5-4a40-9c6b-0a5b7f0e4d11"
	uid     = "0c5d0c4e-3f0a-4c3e-8a57-6f6f3d1c2b22"
)

func key(seed byte) crypto.Signer {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(seed)), ed25519.SeedSize)))
}

func TestSettings(t *testing.T) {
	got, err := Settings(&v1alpha1.EndpointPolicySpec{
		Selector:       &v1alpha1.EndpointSelector{MatchLabels: map[string]v1alpha1.LabelValue{"a": "b"}},
		Priority:       ptr.To[int32](9),
		Heartbeat:      &v1alpha1.HeartbeatPolicy{IntervalSeconds: ptr.To[int32](60), Missed: ptr.To[int32](5), ReportIntervalSeconds: ptr.To[int32](600)},
		CommandChannel: &v1alpha1.CommandChannelPolicy{Mode: "HeartbeatOnly", PingIntervalSeconds: ptr.To[int32](20)},
		LogCollection:  &v1alpha1.LogCollectionPolicy{Mode: "Disabled", RetentionDays: ptr.To[int32](3)},
		Actions:        &v1alpha1.ActionPolicy{Disabled: []v1alpha1.ActionType{"LiveTerminal", "IsolateEndpoint"}},
		Isolation:      &v1alpha1.IsolationPolicy{Allow: []v1alpha1.CIDR{"10.0.0.0/8", "10.0.0.0/16"}},
		Content:        &v1alpha1.ContentPolicy{Mode: "Delayed", DelayDays: ptr.To[int32](2)},
		Transfer:       &v1alpha1.TransferPolicy{DownloadKiBPerSecond: ptr.To[int32](16)},
		Upgrade: &v1alpha1.UpgradePolicy{Mode: "Automatic", Windows: []v1alpha1.MaintenanceWindow{
			{Days: []v1alpha1.Weekday{"Saturday", "Sunday"}, Start: "22:30", DurationMinutes: 90, TimeZone: "Europe/Berlin"},
			{Start: "00:00", DurationMinutes: 1440},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &agentv1.Policy{
		HeartbeatInterval: durationpb.New(time.Minute), ReportInterval: durationpb.New(10 * time.Minute), PingInterval: durationpb.New(20 * time.Second),
		WebsocketDisabled: true, LogCollectionDisabled: true, UpgradeAutomatic: true, ContentDelayDays: 2, DownloadBytesPerSecond: 16384,
		DisabledActions: []string{"IsolateEndpoint", "LiveTerminal"}, IsolationAllow: []string{"10.0.0.0/16", "10.0.0.0/8"},
		Windows: []*agentv1.MaintenanceWindow{
			{Days: []uint32{0, 6}, StartMinute: 22*60 + 30, DurationMinutes: 90, TimeZone: "Europe/Berlin"}, {DurationMinutes: 1440},
		},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestSettingsNameWhatCannotBeObeyed(t *testing.T) {
	for _, tt := range []struct {
		window v1alpha1.MaintenanceWindow
		want   string
	}{
		{v1alpha1.MaintenanceWindow{Start: "22:30", TimeZone: "Europe/Berln"}, "Europe/Berln"},
		{v1alpha1.MaintenanceWindow{Start: "22:30", TimeZone: "Local"}, "Local"},
		{v1alpha1.MaintenanceWindow{Start: "24:00"}, "24:00"},
	} {
		_, err := Settings(&v1alpha1.EndpointPolicySpec{Upgrade: &v1alpha1.UpgradePolicy{Mode: "Automatic", Windows: []v1alpha1.MaintenanceWindow{{Start: "00:00"}, tt.window}}})
		if err == nil || !strings.Contains(err.Error(), "spec.upgrade.windows[1]") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v gives %v, want an error that names the window and %q", tt.window, err, tt.want)
		}
	}
}

func TestSign(t *testing.T) {
	fast := &agentv1.Policy{HeartbeatInterval: durationpb.New(time.Minute)}
	first, revision, err := Sign(key('a'), nil, fleetID, uid, fast, epoch)
	if err != nil || revision != 1 {
		t.Fatalf("the first revision is %d (%v), want 1", revision, err)
	}
	for _, tt := range []struct {
		name     string
		by       crypto.Signer
		before   *agentv1.Envelope
		fleet    string
		settings *agentv1.Policy
		now      time.Time
		want     uint64
	}{
		{"nothing has changed", key('a'), first, fleetID, proto.CloneOf(fast), epoch.Add(time.Hour), 1},
		{"settings", key('a'), first, fleetID, &agentv1.Policy{}, epoch.Add(time.Hour), 2},
		{"the order key", key('b'), first, fleetID, fast, epoch.Add(time.Hour), 2},
		{"the fleet", key('a'), first, "another", fast, epoch.Add(time.Hour), 2},
		{"settings, and the clock has gone back", key('a'), first, fleetID, &agentv1.Policy{}, epoch.Add(-time.Hour), 2},
		{"what was signed is unreadable", key('a'), &agentv1.Envelope{Payload: []byte("{")}, fleetID, fast, epoch, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, revision, err := Sign(tt.by, tt.before, tt.fleet, uid, tt.settings, tt.now)
			if err != nil {
				t.Fatal(err)
			}
			got := &agentv1.Policy{}
			if err := envelope.Open(e, envelope.Policy, got, tt.by.Public()); err != nil {
				t.Fatal(err)
			}
			if got.GetRevision() != tt.want || revision != int64(tt.want) {
				t.Errorf("revision %d, and signed %d; want %d", revision, got.GetRevision(), tt.want)
			}
			if (e == first) != (tt.want == 1 && tt.before == first) {
				t.Errorf("signed anew: %v", e != first)
			}
			if e != first && tt.before == first && !got.GetIssuedAt().AsTime().After(epoch) {
				t.Errorf("issued at %s, not after what was before", got.GetIssuedAt().AsTime())
			}
		})
	}
}

func TestAssign(t *testing.T) {
	to := &agentv1.Assignment{Namespace: "fleet", FleetId: fleetID, IdentityId: uid, PolicyId: "p"}
	first, err := Assign(key('a'), nil, to, epoch)
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(*agentv1.Assignment)) *agentv1.Assignment {
		c := proto.CloneOf(to)
		f(c)
		return c
	}
	for _, tt := range []struct {
		name string
		by   crypto.Signer
		to   *agentv1.Assignment
		now  time.Time
		same bool
	}{
		{"nothing has changed", key('a'), to, epoch.Add(time.Hour), true},
		{"the policy", key('a'), change(func(a *agentv1.Assignment) { a.PolicyId = "" }), epoch.Add(time.Hour), false},
		{"the identity", key('a'), change(func(a *agentv1.Assignment) { a.IdentityId = "other" }), epoch.Add(time.Hour), false},
		{"the namespace", key('a'), change(func(a *agentv1.Assignment) { a.Namespace = "other" }), epoch.Add(time.Hour), false},
		{"the order key", key('b'), to, epoch.Add(time.Hour), false},
		{"the policy within the same millisecond", key('a'), change(func(a *agentv1.Assignment) { a.PolicyId = "q" }), epoch, false},
		{"the policy, and the clock has gone back", key('a'), change(func(a *agentv1.Assignment) { a.PolicyId = "q" }), epoch.Add(-time.Hour), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, err := Assign(tt.by, first, tt.to, tt.now)
			if err != nil {
				t.Fatal(err)
			}
			got := &agentv1.Assignment{}
			if err := envelope.Open(e, envelope.Assignment, got, tt.by.Public()); err != nil {
				t.Fatal(err)
			}
			if (e == first) != tt.same {
				t.Errorf("signed anew: %v, want %v", e != first, !tt.same)
			}
			if !tt.same && !got.GetIssuedAt().AsTime().After(epoch) {
				t.Errorf("issued at %s, not after what was before: no agent would take it", got.GetIssuedAt().AsTime())
			}
			got.IssuedAt = nil
			if diff := cmp.Diff(tt.to, got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What the API accepts, agents accept: every policy within the API's bounds is within the protocol's.
func TestSignedPoliciesKeepTheProtocolsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		between := func(name string, low, high int32) *int32 { return ptr.To(rapid.Int32Range(low, high).Draw(t, name)) }
		spec := &v1alpha1.EndpointPolicySpec{
			Heartbeat: &v1alpha1.HeartbeatPolicy{IntervalSeconds: between("interval", 1, 86400), ReportIntervalSeconds: between("report", 600, 86400)},
			CommandChannel: &v1alpha1.CommandChannelPolicy{
				Mode: rapid.SampledFrom([]v1alpha1.CommandChannelMode{"WebSocket", "HeartbeatOnly"}).Draw(t, "mode"), PingIntervalSeconds: between("ping", 15, 240),
			},
			Content:  &v1alpha1.ContentPolicy{Mode: "Pinned", Version: strings.Repeat("1", rapid.IntRange(0, 39).Draw(t, "version")), DelayDays: between("delay", 1, 90)},
			Transfer: &v1alpha1.TransferPolicy{DownloadKiBPerSecond: between("rate", 16, 1048576)},
			Actions: &v1alpha1.ActionPolicy{Disabled: rapid.SliceOfNDistinct(rapid.SampledFrom([]v1alpha1.ActionType{
				"QuarantineFile", "RestoreFile", "TerminateProcess", "IsolateEndpoint", "CancelIsolation", "LiveTerminal",
				"SetEndpointProxy", "DisableEndpointProxy", "RetrieveFiles", "RetrieveSecurityEventData", "RetrieveSupportFile", "PerformHeartbeat",
			}), 0, 12, rapid.ID).Draw(t, "disabled")},
			Isolation: &v1alpha1.IsolationPolicy{Allow: rapid.SliceOfN(rapid.SampledFrom([]v1alpha1.CIDR{
				"10.0.0.0/8", "fd00::/8", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
			}), 0, 64).Draw(t, "allow")},
			Upgrade: &v1alpha1.UpgradePolicy{Mode: "Automatic"},
		}
		for range rapid.IntRange(0, 14).Draw(t, "windows") {
			spec.Upgrade.Windows = append(spec.Upgrade.Windows, v1alpha1.MaintenanceWindow{
				Days:  rapid.SliceOfNDistinct(rapid.SampledFrom(weekdays), 0, 7, rapid.ID).Draw(t, "days"),
				Start: rapid.StringMatching(`([01][0-9]|2[0-3]):[0-5][0-9]`).Draw(t, "start"), DurationMinutes: *between("duration", 15, 1440),
				TimeZone: rapid.SampledFrom([]string{"", "UTC", "America/Argentina/ComodRivadavia"}).Draw(t, "zone"),
			})
		}
		settings, err := Settings(spec)
		if err != nil {
			t.Fatal(err)
		}
		e, _, err := Sign(key('a'), nil, fleetID, uid, settings, epoch)
		if err != nil {
			t.Fatal(err)
		}
		got := &agentv1.Policy{}
		if err := envelope.Open(e, envelope.Policy, got, key('a').Public()); err != nil {
			t.Fatal(err)
		}
		if err := wire.CheckPolicy(got); err != nil {
			t.Fatalf("agents would refuse it: %v", err)
		}
		if again, revision, err := Sign(key('a'), e, fleetID, uid, settings, epoch.Add(time.Hour)); err != nil || again != e || revision != 1 {
			t.Fatalf("signed again without a change, as revision %d (%v)", revision, err)
		}
		a, err := Assign(key('a'), nil, &agentv1.Assignment{Namespace: "n", FleetId: fleetID, IdentityId: uid, PolicyId: uid}, epoch)
		if err != nil {
			t.Fatal(err)
		}
		assignment := &agentv1.Assignment{IssuedAt: timestamppb.Now()}
		if err := envelope.Open(a, envelope.Assignment, assignment, key('a').Public()); err != nil {
			t.Fatal(err)
		}
		if err := wire.CheckAssignment(assignment); err != nil {
			t.Fatalf("agents would refuse the assignment: %v", err)
		}
	})
}
