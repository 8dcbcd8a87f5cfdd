package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/harness"
	"github.com/rollcall-dev/rollcall/test/relay"
)

// Timers of sessions, scaled as the others are. A manager that nobody kills need not prove every second that it leads.
var (
	steadyManager  = []string{"--leader-lease-duration=30s", "--leader-renew-deadline=20s", "--leader-retry-period=2s"}
	sessionGateway = []string{
		"--ping-interval=500ms", "--session-slack=2s", "--session-sweep=100ms", "--session-down-after=2s", "--drain-spread=1s", "--late-packets=2s",
	}
	sessionAgent = []string{
		"--websocket-ping=500ms", "--websocket-answer=1s", "--websocket-silence=2s", "--websocket-retry-max=2s", "--websocket-grace=300ms",
		"--websocket-stable=3s", "--websocket-floor=500ms", "--websocket-look=200ms", "--websocket-dial=2s", "--retry-base=100ms", "--retry-max=1s", "--refused-retry=2s",
	}
)

// sessionPolicy beats often, and allows for more silence than any trouble here takes: what is asked is whether it is told apart from offline.
const sessionPolicy = `{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: fast}, spec: {heartbeat: {intervalSeconds: 2, missed: 6}}}`

// withinHeartbeat is how long people may be told what was: until the next heartbeat says so, and a loaded machine's time to show it.
const withinHeartbeat = 12 * time.Second

// TestSession takes the websocket of a real agent through what networks and people do to it. The endpoint is online through all of it.
func TestSession(t *testing.T) {
	t.Parallel()
	s := calmSystem(t)
	n := s.tenant(t, "laptops")
	text := n.tokenText(t, "laptops", "{expiresAfterHours: 0}")
	n.Apply(t, sessionPolicy)
	agents := t.TempDir()
	r, address := startRelay(t, s, filepath.Join(agents, "laptop"))
	a := s.startAgentIn(t, agents, "rollcall-agent", "laptop", text, append([]string{"--server=https://" + address}, sessionAgent...)...)
	name := firstEndpoint(t, n)
	channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
	w := watchFleet(t, n, 1)

	t.Run("blocked", func(t *testing.T) {
		switchRelay(t, r, "block")
		channelIs(t, n, a, name, v1alpha1.ChannelHeartbeat, "no websocket: the upgrade was answered with 403", "disconnected")
		switchRelay(t, r, "pass")
		channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
	})
	for mode, phrase := range map[string]string{"swallow": "no answer came for 1s", "cut=1": "the connection was cut"} {
		t.Run(mode, func(t *testing.T) {
			switchRelay(t, r, mode)
			doesNotLast(t, n, a, name, phrase)
			switchRelay(t, r, "pass")
			channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
		})
	}
	t.Run("half-open", func(t *testing.T) {
		number := sessionNumber(t, n, name)
		switchRelay(t, r, "half-open") // what is up hears nothing any more, and nobody says so
		harness.Eventually(t, withinHeartbeat, func() error {
			if now := sessionNumber(t, n, name); now <= number {
				return fmt.Errorf("still session %d", now)
			}
			return nil
		})
		channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
		switchRelay(t, r, "pass")
	})
	t.Run("asleep", func(t *testing.T) {
		number := sessionNumber(t, n, name)
		pause(t, a, syscall.SIGSTOP)
		harness.Eventually(t, withinHeartbeat, func() error { // the gateway finds out by the silence
			if c := connection(t, n, name); c.Channel != v1alpha1.ChannelNone || c.Gateway != "" {
				return fmt.Errorf("the channel is %s, the gateway %q", c.Channel, c.Gateway)
			}
			return nil
		})
		t.Logf("asleep:\n%s", n.Kubectl(t, "get", "fep"))
		pause(t, a, syscall.SIGCONT)
		channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
		if now := sessionNumber(t, n, name); now <= number {
			t.Errorf("session %d before the sleep, %d after", number, now)
		}
	})
	w.nobodyOffline(t)
	t.Run("heartbeats only, by the policy", func(t *testing.T) {
		n.Kubectl(t, "patch", "epp", "fast", "--type=merge", "-p", `{"spec":{"commandChannel":{"mode":"HeartbeatOnly"}}}`)
		channelIs(t, n, a, name, v1alpha1.ChannelHeartbeat, "", "disabled")
		n.Kubectl(t, "patch", "epp", "fast", "--type=merge", "-p", `{"spec":{"commandChannel":{"mode":"WebSocket"}}}`)
		channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
	})
}

// TestOldAgent: an agent from before the websocket is refused it, in the same words everywhere, and served by heartbeat.
func TestOldAgent(t *testing.T) {
	t.Parallel()
	s := calmSystem(t)
	n := s.tenant(t, "laptops")
	n.Apply(t, sessionPolicy)
	a := s.startProgram(t, harness.OldAgent, "old", n.tokenText(t, "laptops", "{expiresAfterHours: 0}"), sessionAgent...)
	name := firstEndpoint(t, n)
	channelIs(t, n, a, name, v1alpha1.ChannelHeartbeat, "agent 6.0.4: the websocket needs 6.1 or later", "unsupported")
	sentence := get[v1alpha1.Endpoint](t, n, name).Status.Message
	out, code := a.cytool(t, "websocket")
	t.Logf("kubectl get fep:\n%scytool websocket, exit %d:\n%s", n.Kubectl(t, "get", "fep"), code, out)
	if code != 1 || !strings.Contains(out, sentence) {
		t.Errorf("cytool does not say %q", sentence)
	}
	before := a.accepted(t)
	harness.Eventually(t, withinHeartbeat, func() error {
		if now := a.accepted(t); now < before+2 {
			return fmt.Errorf("%d heartbeats were accepted, then %d", before, now)
		}
		return nil
	})
}

// startRelay starts one between agents, by the pattern of their directories, and the gateway.
func startRelay(t testing.TB, s *system, agents string) (r *relay.Relay, address string) {
	t.Helper()
	ca, err := local.ServerCA(t.Context(), s.Admin)
	if err != nil {
		t.Fatal(err)
	}
	presented, err := relay.Sign(ca, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if r, err = relay.New(relay.Config{Gateway: s.GatewayAddress, Certificate: presented, Agents: []string{agents}, Log: logr.Discard()}); err != nil {
		t.Fatal(err)
	}
	var c net.ListenConfig
	l, err := c.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- r.Serve(l) }()
	t.Cleanup(func() {
		r.Close()
		<-served
	})
	return r, l.Addr().String()
}

func switchRelay(t testing.TB, r *relay.Relay, mode string) {
	t.Helper()
	m, err := relay.ParseMode(mode)
	if err != nil {
		t.Fatal(err)
	}
	r.Switch(m)
}

// channelIs waits until people and the machine say the same: kubectl's channel and message, and the state of cytool websocket.
func channelIs(t testing.TB, n *tenant, a *realAgent, name string, channel v1alpha1.Channel, message, state string) {
	t.Helper()
	began := time.Now()
	harness.Eventually(t, withinHeartbeat, func() error {
		st := get[v1alpha1.Endpoint](t, n, name).Status
		out, code := a.cytool(t, "websocket", "-o", "json")
		var told struct{ State string }
		if err := json.Unmarshal([]byte(out), &told); err != nil {
			return fmt.Errorf("cytool websocket -o json, exit %d: %w\n%s", code, err, out)
		}
		ok := st.Connection != nil && st.Connection.Channel == channel && told.State == state && (code == 0) == (state == "connected") &&
			strings.HasPrefix(st.Message, message) && (message != "" || st.Message == "") && (st.Connection.Gateway != "") == (channel == v1alpha1.ChannelWebSocket)
		if !ok {
			return fmt.Errorf("kubectl says %+v, %q; cytool %s, exit %d; wanted %s, %q, %s", st.Connection, st.Message, told.State, code, channel, message, state)
		}
		return nil
	})
	out, code := a.cytool(t, "websocket")
	t.Logf("after %s:\n%s%sexit %d", time.Since(began).Round(time.Millisecond), n.Kubectl(t, "get", "fep"), out, code)
}

// doesNotLast waits until people and the machine say the same of a websocket that comes and goes.
func doesNotLast(t testing.TB, n *tenant, a *realAgent, name, phrase string) {
	t.Helper()
	began := time.Now()
	harness.Eventually(t, 2*withinHeartbeat, func() error {
		message := get[v1alpha1.Endpoint](t, n, name).Status.Message
		out, _ := a.cytool(t, "websocket")
		if !strings.Contains(message, phrase) || !strings.Contains(out, phrase) {
			return fmt.Errorf("kubectl says %q, cytool\n%s", message, out)
		}
		t.Logf("after %s:\n%s%s", time.Since(began).Round(time.Millisecond), n.Kubectl(t, "get", "fep"), out)
		return nil
	})
}

func connection(t testing.TB, n *tenant, name string) v1alpha1.EndpointConnection {
	t.Helper()
	if c := get[v1alpha1.Endpoint](t, n, name).Status.Connection; c != nil {
		return *c
	}
	return v1alpha1.EndpointConnection{}
}

func sessionNumber(t testing.TB, n *tenant, name string) int64 {
	t.Helper()
	return connection(t, n, name).SessionNumber
}

// pause stops a process, as sleep stops a machine, or lets it go on.
func pause(t testing.TB, a *realAgent, how syscall.Signal) {
	t.Helper()
	if err := a.Signal(how); err != nil {
		t.Fatal(err)
	}
}

var acceptedCount = regexp.MustCompile(`"acceptedCount": *([0-9]+)`)

// accepted is how many heartbeats the agent says were.
func (a *realAgent) accepted(t testing.TB) (n int) {
	t.Helper()
	out, _ := a.cytool(t, "status", "-o", "json")
	if m := acceptedCount.FindStringSubmatch(out); m != nil {
		_, _ = fmt.Sscan(m[1], &n) // digits, by the pattern
	}
	return n
}
