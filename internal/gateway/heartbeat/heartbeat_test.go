package heartbeat

import (
	stdcmp "cmp"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/internal/gateway/dispatch"
	"github.com/rollcall-dev/rollcall/internal/release"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

const identityID = "5f7a3c2e-0000-4000-8000-000000000002"

var (
	start = time.Unix(1_800_000_000, 0).UTC()
	home  = netip.MustParseAddr("192.0.2.7")
)

// book is a Source that keeps what is written, at once, as the store promises to show it.
type book struct {
	endpoint store.Endpoint
	gone     bool
	policy   store.Policy
	release  store.Release
	beacon   *agentv1.Envelope
	writes   []store.Report
	// open says that there are open actions; lines are those that heartbeats came by which were told of.
	open  bool
	lines []dispatch.Line
}

// Heard is the dispatcher's.
func (s *book) Heard(a *dispatch.Agent, _ *agentv1.Heartbeat, line dispatch.Line, _ time.Time) bool {
	if a.ID != s.endpoint.IdentityID {
		panic("of another agent")
	}
	s.lines = append(s.lines, line)
	return s.open
}

func (s *book) EndpointByIdentity(id string) (store.Endpoint, bool) {
	return s.endpoint, id == s.endpoint.IdentityID && !s.gone
}

func (s *book) Release(store.Endpoint) (store.Release, bool) {
	return s.release, s.release.Offer != nil
}

func (s *book) Policy(namespace, name string) (store.Policy, bool) {
	return s.policy, namespace == s.endpoint.Namespace && name == s.policy.Name
}
func (s *book) Beacon() (*agentv1.Envelope, bool) { return s.beacon, s.beacon != nil }
func (s *book) Write(r store.Report) {
	s.writes = append(s.writes, r)
	if r.Connection != nil {
		s.endpoint.Connection = *r.Connection
	}
	if !r.Seen.IsZero() {
		s.endpoint.LastSeen = r.Seen
	}
	s.endpoint.Agent = stdcmp.Or(store.DigestOf(r.Agent), s.endpoint.Agent)
	s.endpoint.Inventory = stdcmp.Or(store.DigestOf(r.Inventory), s.endpoint.Inventory)
}

// take returns the blocks of what was written since the last time.
func (s *book) take() (all []string) {
	for _, w := range s.writes {
		var blocks []string
		if w.Connection != nil {
			blocks = append(blocks, "connection")
		}
		if w.Agent != nil {
			blocks = append(blocks, "agent")
		}
		if w.Inventory != nil {
			blocks = append(blocks, "inventory")
		}
		if !w.Seen.IsZero() {
			blocks = append(blocks, "seen")
		}
		all = append(all, strings.Join(blocks, "+"))
	}
	s.writes = nil
	return all
}

type world struct {
	*testing.T
	source  *book
	service *Service
	now     time.Time
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, now: start, source: &book{
		endpoint: store.Endpoint{
			Ref: store.Ref{Namespace: "fleet", Name: "devbox", UID: "u"}, IdentityID: identityID, EnrolledTime: start.Add(-time.Hour),
			Lifecycle: v1alpha1.LifecycleActive, PolicyName: "demo", OfflineAfter: 1200 * time.Second,
		},
		policy: store.Policy{Ref: store.Ref{Namespace: "fleet", Name: "demo", UID: "5f7a3c2e-0000-4000-8000-00000000000a"}, Revision: 3, Order: &agentv1.Envelope{PayloadType: "policy"}, Interval: 300 * time.Second},
		beacon: &agentv1.Envelope{PayloadType: "beacon"},
	}}
	w.restart()
	return w
}

// restart is what a gateway does that forgets everything.
func (w *world) restart() {
	w.service = New(Config{Source: w.source, Actions: w.source, Gateway: "gw-abcde-fghij", MinInterval: 10 * time.Second, Burst: 4, Grace: time.Minute, PingInterval: 30 * time.Second})
}

func heartbeat(change func(*agentv1.Heartbeat)) *agentv1.Heartbeat {
	m := &agentv1.Heartbeat{
		Agent:           &agentv1.AgentInfo{Version: "8.0.0", Platform: "linux/amd64", InstanceId: strings.Repeat("a", 32), Epoch: 5},
		SentAt:          timestamppb.New(start),
		PolicyId:        "5f7a3c2e-0000-4000-8000-00000000000a",
		PolicyRevision:  3,
		State:           &agentv1.EndpointState{},
		CapabilitiesTag: "c1", InventoryTag: "i1",
	}
	if change != nil {
		change(m)
	}
	return m
}

func whole(m *agentv1.Heartbeat) {
	m.Capabilities = &agentv1.Capabilities{Names: []string{"PerformHeartbeat", "IsolateEndpoint"}}
	m.Inventory = &agentv1.Inventory{Hostname: "devbox", MemoryTotal: 16_000 << 20}
}

// beat sends a heartbeat and compares what is written and what it is answered with.
func (w *world) beat(m *agentv1.Heartbeat, writes []string, want wire.Name) *agentv1.HeartbeatReply {
	w.Helper()
	if err := wire.CheckHeartbeat(m); err != nil {
		w.Fatalf("the test's heartbeat: %v", err)
	}
	reply := &agentv1.HeartbeatReply{}
	p := w.service.Beat(w.agent(), m, nil, Via{Address: home}, w.now, reply)
	var got wire.Name
	if p != nil {
		got = p.Name
	}
	if got != want {
		w.Errorf("answered with %q, want %q", got, want)
	}
	if diff := cmp.Diff(writes, w.source.take()); diff != "" {
		w.Errorf("written (-want +got):\n%s", diff)
	}
	return reply
}

func (w *world) agent() *Agent { return w.service.Agent(w.source.endpoint, w.now) }

func TestWritesAreForChanges(t *testing.T) {
	w := newWorld(t)
	w.beat(heartbeat(whole), []string{"connection+agent+inventory+seen"}, "")
	w.now = w.now.Add(299 * time.Second)
	w.beat(heartbeat(nil), nil, "")
	w.now = w.now.Add(time.Second)
	w.beat(heartbeat(nil), []string{"seen"}, "")
	w.beat(heartbeat(func(m *agentv1.Heartbeat) { m.PolicyRevision = 4 }), []string{"agent+seen"}, "")
	w.beat(heartbeat(func(m *agentv1.Heartbeat) { m.PolicyRevision = 4; whole(m) }), nil, "")
	w.beat(heartbeat(func(m *agentv1.Heartbeat) { m.PolicyRevision = 4; whole(m); m.Inventory.Hostname = "renamed" }), []string{"inventory+seen"}, "")
	w.beat(heartbeat(func(m *agentv1.Heartbeat) { m.PolicyRevision = 4; m.SessionError = "answered with 403" }), []string{"connection+seen"}, "")
	w.source.endpoint.Connection.Channel = v1alpha1.ChannelNone // the manager found it offline
	w.service.Changed(identityID)
	w.now = w.now.Add(time.Minute)
	w.beat(heartbeat(func(m *agentv1.Heartbeat) { m.PolicyRevision = 4; m.SessionError = "answered with 403" }), []string{"connection+seen"}, "")
	if c := w.source.endpoint.Connection; c.Channel != v1alpha1.ChannelHeartbeat || !c.Since.Equal(w.now) || c.RemoteAddress != "192.0.2.7" {
		t.Errorf("back online: %+v", c)
	}
}

func TestWhatIsNoReasonToWrite(t *testing.T) {
	w := newWorld(t)
	w.beat(heartbeat(whole), []string{"connection+agent+inventory+seen"}, "")
	for name, change := range map[string]func(*agentv1.Heartbeat){
		"vitals":          func(m *agentv1.Heartbeat) { m.Vitals = &agentv1.Vitals{Load1: 3, MemoryAvailable: 7} },
		"a session":       func(m *agentv1.Heartbeat) { m.Agent.SessionNumber = 9 },
		"a little skew":   func(m *agentv1.Heartbeat) { m.ClockSkew = durationpb.New(-9 * time.Second) },
		"a beacon's age":  func(m *agentv1.Heartbeat) { m.BeaconAge = durationpb.New(time.Minute) },
		"a little memory": func(m *agentv1.Heartbeat) { whole(m); m.Inventory.MemoryTotal += 10 << 20 },
		"disks":           func(m *agentv1.Heartbeat) { whole(m); m.Inventory.Disks = []*agentv1.Disk{{Mount: "/", Free: 1}} },
	} {
		t.Run(name, func(t *testing.T) {
			w.T = t
			w.beat(heartbeat(change), nil, "")
		})
	}
	w.T = t
	home2 := netip.MustParseAddr("198.51.100.9")
	elsewhere := func() *wire.Problem {
		return w.service.Beat(w.agent(), heartbeat(func(m *agentv1.Heartbeat) { m.Agent.SessionNumber = 9 }), nil, Via{Address: home2}, w.now, &agentv1.HeartbeatReply{})
	}
	if p := elsewhere(); p != nil || len(w.source.writes) > 0 {
		t.Errorf("another address: %v, %v", p, w.source.writes)
	}
	w.now = w.now.Add(time.Hour)
	if p := elsewhere(); p != nil {
		t.Error(p)
	}
	if c := w.source.endpoint.Connection; c.RemoteAddress != "198.51.100.9" || c.Session != 9 {
		t.Errorf("not written along with the next: %+v", c)
	}
}

func TestForgetfulGatewayAsksAgain(t *testing.T) {
	w := newWorld(t)
	both := []agentv1.Section{agentv1.Section_SECTION_CAPABILITIES, agentv1.Section_SECTION_INVENTORY}
	if r := w.beat(heartbeat(whole), []string{"connection+agent+inventory+seen"}, ""); r.Send != nil || r.More {
		t.Errorf("asked for %v, more %v though it has everything", r.Send, r.More)
	}
	w.restart()
	r := w.beat(heartbeat(nil), nil, "") // and takes no capabilities away meanwhile
	if !slices.Equal(r.Send, both) || !r.More {
		t.Errorf("asked for %v, more %v", r.Send, r.More)
	}
	if r := w.beat(heartbeat(nil), nil, ""); !slices.Equal(r.Send, both) || r.More {
		t.Errorf("asked again for %v, more %v: an agent that does not send them must not be hurried again", r.Send, r.More)
	}
	if r := w.beat(heartbeat(whole), nil, ""); r.Send != nil {
		t.Errorf("asked for %v", r.Send)
	}
	r = w.beat(heartbeat(func(m *agentv1.Heartbeat) { m.InventoryTag = "i2" }), nil, "")
	if !slices.Equal(r.Send, both[1:]) {
		t.Errorf("asked for %v when the inventory's tag changed", r.Send)
	}
	w.beat(heartbeat(func(m *agentv1.Heartbeat) { m.InventoryTag = "i2"; whole(m); m.Inventory.Model = "new" }), []string{"inventory+seen"}, "")
	w.source.endpoint.Agent, w.source.endpoint.Inventory = 0, 0 // restored from a backup
	w.service.Changed(identityID)
	if r := w.beat(heartbeat(func(m *agentv1.Heartbeat) { m.InventoryTag = "i2" }), []string{"agent+seen"}, ""); !slices.Equal(r.Send, both[1:]) {
		t.Errorf("asked for %v when the inventory is gone", r.Send)
	}
}

func TestTwoMachines(t *testing.T) {
	w := newWorld(t)
	clone := func(m *agentv1.Heartbeat) { m.Agent.InstanceId = strings.Repeat("b", 32) }
	behind := func(m *agentv1.Heartbeat) { m.PolicyId, m.PolicyRevision = "", 0 }
	w.beat(heartbeat(whole), []string{"connection+agent+inventory+seen"}, "")
	if r := w.beat(heartbeat(behind), []string{"agent+seen"}, ""); len(r.Orders) != 1 {
		t.Errorf("%d orders, want the policy", len(r.Orders))
	}
	w.beat(heartbeat(clone), []string{"connection"}, wire.IdentityConflict)
	if c := w.source.endpoint.Connection; c.ConflictInstance != strings.Repeat("b", 32) || c.ID != strings.Repeat("a", 32) {
		t.Errorf("recorded %+v", c)
	}
	w.beat(heartbeat(clone), nil, wire.IdentityConflict)
	if r := w.beat(heartbeat(behind), nil, ""); len(r.Orders) != 0 || r.Beacon == nil {
		t.Errorf("%d orders while two machines use the identity, beacon %v", len(r.Orders), r.Beacon)
	}
	w.source.endpoint.AcceptInstance = strings.Repeat("b", 32)
	w.service.Changed(identityID)
	w.beat(heartbeat(clone), []string{"connection+agent+seen"}, "") // its policy is another than the other's
	w.beat(heartbeat(behind), nil, wire.IdentityConflict)
	w.now = w.now.Add(10 * time.Second)
	restart := func(m *agentv1.Heartbeat) { m.Agent.InstanceId, m.Agent.Epoch = strings.Repeat("c", 32), 6 }
	w.beat(heartbeat(restart), []string{"connection+seen"}, "")
	w.beat(heartbeat(clone), nil, wire.SessionReplaced) // a late packet of its earlier start
}

func TestRateOfHeartbeats(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		interval, every time.Duration
	}{{300 * time.Second, 10 * time.Second}, {time.Second, 500 * time.Millisecond}, {12 * time.Second, 6 * time.Second}} {
		w.restart()
		w.source.policy.Interval = test.interval
		for range 4 {
			if p := w.service.Admit(w.agent(), w.now); p != nil {
				t.Fatalf("within the burst: %v", p)
			}
		}
		p := w.service.Admit(w.agent(), w.now)
		if p == nil || p.Name != wire.Throttled || p.RetryAfter != test.every {
			t.Errorf("interval %s: %+v, want throttled for %s", test.interval, p, test.every)
		}
	}
}

// An agent that is told to beat more often is not refused for having beaten when it was to do so less often.
func TestShorterIntervalCountsAtOnce(t *testing.T) {
	w := newWorld(t)
	for range 4 {
		if p := w.service.Admit(w.agent(), w.now); p != nil {
			t.Fatal(p)
		}
	}
	w.source.policy.Interval = time.Second
	for range 10 {
		w.now = w.now.Add(time.Second)
		if p := w.service.Admit(w.agent(), w.now); p != nil {
			t.Fatalf("refused: %v", p)
		}
	}
}

func TestDeletedEndpointIsForgotten(t *testing.T) {
	w := newWorld(t)
	w.beat(heartbeat(whole), []string{"connection+agent+inventory+seen"}, "")
	w.service.Forget(identityID)
	if w.service.Remembered() != 1 {
		t.Error("forgotten though it is there")
	}
	w.source.gone = true
	w.service.Changed(identityID)
	w.beat(heartbeat(nil), nil, wire.EndpointUnknown)
	if w.service.Remembered() != 0 {
		t.Error("remembered though it is gone")
	}
}

// Who has an agent in hand that was forgotten is told of no change, and so has everything looked up.
func TestForgottenAgentTakesNothingForGranted(t *testing.T) {
	w := newWorld(t)
	w.beat(heartbeat(whole), []string{"connection+agent+inventory+seen"}, "")
	w.beat(heartbeat(nil), nil, "")
	in := w.agent()
	w.source.gone = true
	w.service.Forget(identityID)
	w.source.gone = false // it is back
	for revision := range uint64(2) {
		w.source.policy.Revision = 7 + int64(revision)
		w.service.Changed(identityID)
		reply := &agentv1.HeartbeatReply{}
		held := heartbeat(func(m *agentv1.Heartbeat) { m.PolicyRevision = 7 })
		if p := w.service.Beat(in, held, nil, Via{Address: home}, w.now, reply); p != nil || len(reply.Orders) != int(revision) {
			t.Errorf("answered with %d orders, %v", len(reply.Orders), p)
		}
	}
}

func TestLackingOrders(t *testing.T) {
	at := start
	assignment, policyOrder := &agentv1.Envelope{PayloadType: "assignment"}, &agentv1.Envelope{PayloadType: "policy"}
	policy := store.Policy{Ref: store.Ref{UID: "p"}, Revision: 3, Order: policyOrder}
	for _, test := range []struct {
		name       string
		has        *timestamppb.Timestamp
		id         string
		revision   uint64
		assigned   time.Time
		policy     store.Policy
		applies    bool
		assignment *agentv1.Envelope
		want       []*agentv1.Envelope
	}{
		{"a new agent", nil, "", 0, at, policy, true, assignment, []*agentv1.Envelope{assignment, policyOrder}},
		{"one that has all", timestamppb.New(at), "p", 3, at, policy, true, assignment, nil},
		{"an older assignment", timestamppb.New(at.Add(-time.Nanosecond)), "p", 3, at, policy, true, assignment, []*agentv1.Envelope{assignment}},
		{"a newer assignment than we know of", timestamppb.New(at.Add(time.Second)), "p", 3, at, policy, true, assignment, nil},
		{"an older revision", timestamppb.New(at), "p", 2, at, policy, true, assignment, []*agentv1.Envelope{policyOrder}},
		{"a newer revision than we know of", timestamppb.New(at), "p", 4, at, policy, true, assignment, nil},
		{"another policy", timestamppb.New(at), "q", 9, at, policy, true, assignment, []*agentv1.Envelope{policyOrder}},
		{"nothing is assigned yet", nil, "", 0, time.Time{}, store.Policy{}, false, nil, nil},
		{"the defaults", nil, "", 0, at, store.Policy{}, false, assignment, []*agentv1.Envelope{assignment}},
		{"a policy that is not signed yet", timestamppb.New(at), "", 0, at, store.Policy{Ref: store.Ref{UID: "p"}}, true, assignment, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := &agentv1.Heartbeat{AssignmentIssuedAt: test.has, PolicyId: test.id, PolicyRevision: test.revision}
			got := lacking(heldBy(m), assigned{test.assigned, func() *agentv1.Envelope { return test.assignment }, test.policy, test.applies})
			if diff := cmp.Diff(test.want, got, cmp.Comparer(func(a, b *agentv1.Envelope) bool { return proto.Equal(a, b) })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The version in each heartbeat is compared with the newest for that endpoint, until the agent has judged the offer.
func TestOffers(t *testing.T) {
	w := newWorld(t)
	m := heartbeat(whole)
	w.beat(m, []string{"connection+agent+inventory+seen"}, "")
	w.source.release = store.Release{Release: release.Release{UID: "r", Version: content.Version{1042}, Sequence: 7}, Offer: &agentv1.Envelope{PayloadType: "offer"}}
	w.service.AnyChanged()
	for _, test := range []struct {
		says string
		has  *agentv1.ReleaseState
		want int
	}{
		{"nothing", nil, 1},
		{"an older version, and no offer", &agentv1.ReleaseState{Version: "1041"}, 1},
		{"that it failed to apply it", &agentv1.ReleaseState{Version: "1041", Sequence: 7, Phase: agentv1.ReleasePhase_RELEASE_PHASE_FAILED, Reason: "DigestDiffers"}, 0},
		{"that it runs it", &agentv1.ReleaseState{Version: "1042", Sequence: 7}, 0},
		{"a newer version", &agentv1.ReleaseState{Version: "1043", Sequence: 6}, 0},
	} {
		m := heartbeat(func(m *agentv1.Heartbeat) { m.Content = test.has })
		w.now = w.now.Add(time.Minute)
		reply := &agentv1.HeartbeatReply{}
		if p := w.service.Beat(w.agent(), m, nil, Via{Address: home}, w.now, reply); p != nil || len(reply.GetOrders()) != test.want {
			t.Errorf("one that says %s gets %d orders (%v), want %d", test.says, len(reply.GetOrders()), p, test.want)
		}
		w.source.take()
	}
}

// Each heartbeat of an endpoint with open actions is told of, and of others only what is new; one that is refused never is.
func TestOpenActions(t *testing.T) {
	w := newWorld(t)
	told := func(want int, why string) {
		t.Helper()
		if got := len(w.source.lines); got != want {
			t.Errorf("%s: told of %d heartbeats, want %d", why, got, want)
		}
		w.source.lines = nil
	}
	w.beat(heartbeat(whole), []string{"connection+agent+inventory+seen"}, "")
	w.beat(heartbeat(nil), nil, "")
	told(1, "what is new")
	w.beat(heartbeat(nil), nil, "")
	told(0, "nothing is open")
	w.source.open = true
	w.service.Changed(identityID)
	w.beat(heartbeat(nil), nil, "")
	w.beat(heartbeat(nil), nil, "")
	told(2, "an action is open")
	w.beat(heartbeat(func(m *agentv1.Heartbeat) { m.Agent.Epoch = 4; m.Agent.InstanceId = strings.Repeat("b", 32) }), nil, wire.SessionReplaced)
	told(0, "a late packet")
	w.source.open = false
	w.service.Changed(identityID)
	w.beat(heartbeat(nil), nil, "")
	w.beat(heartbeat(nil), nil, "")
	told(1, "it has ended")
	line := dispatch.NewAnswer()
	w.service.Changed(identityID)
	if p := w.service.Beat(w.agent(), heartbeat(nil), nil, Via{Line: line, Address: home}, w.now, &agentv1.HeartbeatReply{}); p != nil || w.source.lines[0] != line {
		t.Errorf("%v, by %v", p, w.source.lines)
	}
}
