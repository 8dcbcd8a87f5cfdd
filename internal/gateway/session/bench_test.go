package session

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/gateway/heartbeat"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// null is a connection that nobody listens to.
type null struct{}

func (null) JSON() bool                   { return false }
func (null) Read() ([]byte, error)        { select {} }
func (null) Write([]byte) error           { return nil }
func (null) Close(wire.CloseCode, string) {}
func (null) CloseNow()                    {}

func benchHub(b testing.TB, n int) (*Hub, *book) {
	source := &book{endpoints: make(map[string]store.Endpoint, n)}
	metrics, err := NewMetrics(prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	actions := newDispatcher(b, source)
	beats := heartbeat.New(heartbeat.Config{Source: source, Actions: actions, Gateway: own, MinInterval: time.Nanosecond, Burst: 100, Grace: time.Minute, PingInterval: 30 * time.Second})
	hub := New(Config{
		Beats: beats, Actions: actions, Auth: anybody{}, Metrics: metrics, Log: logr.Discard(), FirstMessage: time.Minute, Slack: time.Minute,
		DownAfter: time.Minute, Refresh: time.Hour, Sweep: time.Second, Messages: limit.PerSecond(1e9, 1e9), Unanswered: 8, Upgrades: limit.PerSecond(1e6, 1e6),
	})
	return hub, source
}

type anybody struct{}

func (anybody) Check(auth.Credentials, time.Time) (store.Endpoint, *wire.Problem) {
	return store.Endpoint{}, nil
}

// usual is a heartbeat as an agent sends it every time.
func usual(id uint64) []byte {
	m := beat(1, short, func(m *agentv1.Heartbeat) {
		m.SentAt, m.ClockSkew, m.BeaconAge = timestamppb.Now(), durationpb.New(time.Millisecond), durationpb.New(time.Second)
		m.PolicyId, m.PolicyRevision, m.AssignmentIssuedAt, m.TrustVersion = idOf(900), 3, timestamppb.Now(), 1
		hex := m.Agent.InstanceId
		m.Agent.MachineId, m.Agent.BootId, m.Agent.JournalId = hex+hex, hex+hex, hex
		m.Vitals = &agentv1.Vitals{Load1: .5, MemoryAvailable: 1 << 30, Uptime: durationpb.New(time.Hour)}
		m.Content = &agentv1.ReleaseState{Version: "1042"}
	})
	b, err := wire.Protobuf.Marshal(&agentv1.AgentMessage{Id: id, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: m}})
	if err != nil {
		panic(err)
	}
	return b
}

// BenchmarkHeartbeat is what a heartbeat on a session costs above the websocket: decode, judge, encode.
func BenchmarkHeartbeat(b *testing.B) {
	hub, source := benchHub(b, 1)
	e := store.Endpoint{Ref: store.Ref{UID: "u"}, IdentityID: idOf(1)}
	source.endpoints[idOf(1)] = e
	hub.Open(null{}, auth.Credentials{}, hub.config.Beats.Agent(e, time.Now()), home, time.Now())
	s := hub.all[0]
	first, err := wire.Protobuf.Marshal(&agentv1.AgentMessage{Id: 1, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: beat(1)}})
	if err != nil {
		b.Fatal(err)
	}
	if _, p := s.Handle(time.Now(), first, nil); p != nil {
		b.Fatal(p)
	}
	message := usual(2)
	b.Logf("%d bytes", len(message))
	out := make([]byte, 0, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		s.Answered()
		if _, p := s.Handle(time.Now(), message, out); p != nil {
			b.Fatal(p)
		}
	}
}

// BenchmarkSweep is one look at 10,000 sessions.
func BenchmarkSweep(b *testing.B) {
	hub, _ := benchHub(b, 0)
	for n := range 10_000 {
		hub.Open(null{}, auth.Credentials{}, hub.config.Beats.Agent(store.Endpoint{IdentityID: idOf(n)}, time.Now()), home, time.Now())
	}
	now := time.Now()
	for b.Loop() {
		hub.sweep(now)
	}
}

// TestMemoryOfASession is what a session keeps in all, the connection and its reader apart: the Session, what is remembered of its agent's
// heartbeats, and their places in maps.
func TestMemoryOfASession(t *testing.T) {
	const sessions, most = 2_000, 800
	measure := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	hub, source := benchHub(t, sessions)
	for n := range sessions {
		source.endpoints[idOf(n)] = store.Endpoint{Ref: store.Ref{Name: fmt.Sprint(n), UID: fmt.Sprint("u", n)}, IdentityID: idOf(n)}
	}
	messages := [][]byte{usual(1)}
	before := measure()
	for n := range sessions {
		e := store.Endpoint{Ref: source.endpoints[idOf(n)].Ref, IdentityID: idOf(n)}
		hub.Open(null{}, auth.Credentials{}, hub.config.Beats.Agent(e, time.Now()), netip.MustParseAddr("192.0.2.7"), time.Now())
		s := hub.all[n]
		if _, p := s.Handle(time.Now(), messages[0], nil); p != nil {
			t.Fatal(p)
		}
		source.mu.Lock()
		source.writes = nil
		x := source.endpoints[idOf(n)]
		x.Connection = store.Connection{}
		source.endpoints[idOf(n)] = x
		source.mu.Unlock()
	}
	each := int(measure()-before) / sessions
	t.Logf("%d bytes a session", each)
	if each > most || len(hub.sessions) != sessions {
		t.Errorf("%d bytes a session, want at most %d; %d are up", each, most, len(hub.sessions))
	}
	runtime.KeepAlive(hub)
}
