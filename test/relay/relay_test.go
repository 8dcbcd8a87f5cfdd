package relay

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rollcall-dev/rollcall/internal/transport"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestTheProtocolsOwnWebsocket is dialled as an agent does.
func TestTheProtocolsOwnWebsocket(t *testing.T) {
	s := newScene(t)
	https := &http.Transport{TLSClientConfig: clientTLS(s.roots, s.agent)}
	dial := func() (*transport.Conn, error) {
		return transport.Dial(t.Context(), transport.DialOptions{URL: "https://" + s.address + wire.PathSession, Transport: https})
	}
	for _, name := range []string{"pass", "swallow=pongs", "cut=1m"} {
		s.relay.Switch(mode(t, name))
		c, err := dial()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer c.CloseNow()
		if err := c.Write([]byte(heartbeat)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := c.Read(); string(got) != heartbeat {
			t.Errorf("%s: read %q, %v", name, got, err)
		}
	}
	s.relay.Switch(mode(t, "block"))
	if _, err := dial(); err == nil || err.Error() != "the upgrade was answered with 403" {
		t.Errorf("blocked, it is %v", err)
	}
}

func TestPassLeavesTLSAlone(t *testing.T) {
	s := newScene(t)
	a := s.connect(t, s.agent)
	if got := a.state().PeerCertificates[0].Subject.CommonName; got != "gateway" {
		t.Errorf("the agent speaks TLS with %q, want the gateway itself", got)
	}
	if got := a.beat(t, "one"); got != "one from "+s.agent.name {
		t.Errorf("the answer is %q", got)
	}
	ws := s.connect(t, s.agent).upgrade(t)
	ws.exchange(t, ping, pong)
	ws.exchange(t, strings.Repeat("x", 1<<20), strings.Repeat("x", 1<<20))
}

func TestPassPassesOnHowAConnectionEnds(t *testing.T) {
	for _, linger := range []int{-1, 0} { // FIN, RST
		s := newScene(t)
		raw := s.connect(t, s.agent).NetConn().(*net.TCPConn)
		s.carries(t, 1)
		if err := errors.Join(raw.SetLinger(linger), raw.Close()); err != nil {
			t.Fatal(err)
		}
		s.carries(t, 0)
	}
}

func TestTLSIsEndedBeforeTheFleetsOwnGatewayAlone(t *testing.T) {
	s, other := newScene(t), newScene(t)
	s.relay.config.Gateway = other.gateway.address
	s.relay.Switch(mode(t, "block"))
	if got := s.connect(t, s.agent).do(t, "POST", "/agent/v1/heartbeat", "one"); got.status != http.StatusBadGateway {
		t.Errorf("a gateway of another CA: answered with %d, want 502", got.status)
	}
}

func TestBlockRefusesWebsocketsAloneAndPassBringsThemBack(t *testing.T) {
	s := newScene(t)
	before := s.connect(t, s.agent).upgrade(t)
	s.relay.Switch(mode(t, "block"))
	before.ends(t)

	a := s.connect(t, s.agent)
	if got := a.state().PeerCertificates[0].Subject.CommonName; got != "relay" {
		t.Errorf("the agent speaks TLS with %q, want the relay", got)
	}
	for _, body := range []string{"one", strings.Repeat("x", 100_000)} {
		if got := a.beat(t, body); got != body+" from "+s.agent.name {
			t.Errorf("the answer has %d bytes, want those of the gateway for the agent's own certificate", len(got))
		}
	}
	if refused := a.tryUpgrade(t); refused.status != http.StatusForbidden || refused.header.Get("Content-Type") != "text/html" {
		t.Errorf("the upgrade was answered with %d", refused.status)
	}
	if got := a.beat(t, "after"); got != "after from "+s.agent.name {
		t.Errorf("after the refusal the answer is %q", got)
	}
	if got := s.connect(t, stranger).beat(t, "enrol"); got != "enrol from nobody" {
		t.Errorf("without a certificate the answer is %q", got)
	}
	if n := s.gateway.upgrades.Load(); n != 1 {
		t.Errorf("the gateway saw %d upgrades, want the one from before", n)
	}

	s.relay.Switch(mode(t, "pass"))
	a.ends(t)
	s.connect(t, s.agent).upgrade(t).exchange(t, ping, pong)
}

func TestTLSIsEndedForACertificateThatWasRenewed(t *testing.T) {
	s := newScene(t)
	s.relay.Switch(mode(t, "block"))
	s.connect(t, s.agent).beat(t, "first")
	renewed := s.newAgent(t, s.agent.dir, "renewed")
	if got := s.connect(t, s.agent).do(t, "POST", "/agent/v1/heartbeat", "second"); got.status != http.StatusBadGateway {
		t.Errorf("a certificate whose key is gone was answered with %d, want 502", got.status)
	}
	if got := s.connect(t, renewed).beat(t, "third"); got != "third from renewed" {
		t.Errorf("the answer is %q", got)
	}
}

func TestAGatewayThatIsGone(t *testing.T) {
	s := newScene(t)
	s.relay.Switch(mode(t, "block"))
	idle := s.connect(t, s.agent)
	idle.beat(t, "one")
	s.gateway.stop()
	idle.ends(t)
	if got := s.connect(t, s.agent).do(t, "POST", "/agent/v1/heartbeat", "two"); got.status != http.StatusBadGateway {
		t.Errorf("answered with %d, want 502", got.status)
	}
	s.relay.Switch(mode(t, "pass"))
	if _, err := s.dial(t, s.agent); err == nil {
		t.Error("a handshake without a gateway")
	}
}

func TestCutEndsWebsocketsAfterAWhile(t *testing.T) {
	s := newScene(t)
	s.relay.Switch(mode(t, "cut=300ms"))
	a := s.connect(t, s.agent)
	ws := s.connect(t, s.agent).upgrade(t)
	began := time.Now()
	ws.exchange(t, ping, pong)
	ws.ends(t)
	if took := time.Since(began); took < 250*time.Millisecond {
		t.Errorf("cut after %s, want 300ms", took)
	}
	if got := a.beat(t, "one"); got != "one from "+s.agent.name {
		t.Errorf("the answer is %q: HTTPS is not to be cut", got)
	}
}

func TestSwallow(t *testing.T) {
	for _, tt := range []struct {
		mode         string
		text         bool
		sent, answer string
		arrives      int64
	}{
		{"swallow", false, ping, "", 0},
		{"swallow=pongs", false, ping, "", 1},
		{"swallow", true, jsonPing, "", 0},
		{"swallow=pongs", true, jsonPing, "", 1},
		{"swallow", false, heartbeat, reply, 1},
		{"swallow=pongs", false, heartbeat, reply, 1},
		{"swallow", false, "neither protobuf nor JSON", "neither protobuf nor JSON", 1},
		{"swallow", false, strings.Repeat("x", 100_000), strings.Repeat("x", 100_000), 1},
	} {
		t.Run(fmt.Sprintf("%s %.20q", tt.mode, tt.sent), func(t *testing.T) {
			s := newScene(t)
			s.relay.Switch(mode(t, tt.mode))
			ws := s.connect(t, s.agent).upgrade(t)
			opcode := byte(opBinary)
			if tt.text {
				opcode = opText
			}
			ws.send(t, finBit|opcode, tt.sent)
			if tt.answer != "" {
				ws.receive(t, tt.answer)
			}
			ws.exchange(t, "what comes after", "what comes after")
			if n := s.gateway.messages.Load(); n != tt.arrives+1 {
				t.Errorf("%d messages reached the gateway, want %d", n, tt.arrives+1)
			}
		})
	}
}

func TestSwallowLeavesFragmentsAndControlFramesAlone(t *testing.T) {
	s := newScene(t)
	s.relay.Switch(mode(t, "swallow"))
	ws := s.connect(t, s.agent).upgrade(t)
	ws.send(t, opBinary, ping[:1])
	ws.receive(t, ping[:1])
	ws.send(t, finBit|9, ping) // a websocket ping, which is no message
	ws.receive(t, ping)
	ws.send(t, finBit, ping[1:])
	ws.receive(t, ping[1:])
}

func TestHalfOpenHoldsWhatIsUp(t *testing.T) {
	s := newScene(t)
	ws := s.connect(t, s.agent).upgrade(t)
	ws.exchange(t, ping, pong)
	s.relay.Switch(mode(t, "half-open"))
	ws.send(t, finBit|opBinary, heartbeat)
	ws.silent(t)
	if n := s.gateway.messages.Load(); n != 1 {
		t.Errorf("%d messages reached the gateway, want the one from before", n)
	}
	fresh := s.connect(t, s.agent).upgrade(t)
	fresh.exchange(t, ping, pong)

	s.relay.Switch(mode(t, "pass"))
	ws.receive(t, reply) // late
	fresh.exchange(t, ping, pong)
}

func TestHalfOpenHoldsWhatTLSWasEndedFor(t *testing.T) {
	for _, before := range []string{"swallow=pongs", "cut=100ms"} {
		s := newScene(t)
		s.relay.Switch(mode(t, before))
		ws := s.connect(t, s.agent).upgrade(t)
		ws.exchange(t, heartbeat, reply)
		s.relay.Switch(mode(t, "half-open"))
		ws.send(t, finBit|opBinary, heartbeat)
		ws.silent(t)
		s.relay.Switch(mode(t, "pass"))
		ws.ends(t)
	}
}

func TestHalfOpenForAllLeadsNowhere(t *testing.T) {
	s := newScene(t)
	ws := s.connect(t, s.agent).upgrade(t)
	s.relay.Switch(mode(t, "half-open=all"))
	ws.silent(t)
	_, err := s.dialWithin(t, 200*time.Millisecond, s.agent)
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		t.Errorf("a new connection: %v, want no answer at all", err)
	}
	s.carries(t, 1) // what was dialled has let go, and is forgotten
	raw, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	s.carries(t, 2)
	s.relay.Switch(mode(t, "half-open"))
	if _, err := io.ReadAll(raw); err != nil {
		t.Errorf("a connection that led nowhere: %v, want its end", err)
	}
	s.connect(t, s.agent).beat(t, "one")
}

func TestHeadersAreBounded(t *testing.T) {
	s := newScene(t)
	s.relay.Switch(mode(t, "block"))
	a := s.connect(t, s.agent)
	_, _ = io.WriteString(a, "GET / HTTP/1.1\r\nX: "+strings.Repeat("x", maxHeaderBytes))
	a.ends(t)
}

// TestSwitchesUnderLoad: whatever is switched while agents come and go, in the end all is well and nothing is left.
func TestSwitchesUnderLoad(t *testing.T) {
	s := newScene(t)
	stop := make(chan struct{})
	var agents sync.WaitGroup
	for range 8 {
		agents.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := s.dialWithin(t, 100*time.Millisecond, s.agent)
				if err != nil {
					continue
				}
				_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond))
				_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\n\r\nx")
				_, _ = http.ReadResponse(bufio.NewReader(c), nil)
				_ = c.Close()
			}
		})
	}
	for range 3 {
		for _, name := range []string{"block", "half-open", "cut=1ms", "half-open=all", "pass", "swallow", "pass", "half-open"} {
			s.relay.Switch(mode(t, name))
			if c, err := s.dialWithin(t, 100*time.Millisecond, s.agent); err == nil {
				_ = c.Close()
			}
		}
	}
	s.relay.Switch(mode(t, "pass"))
	close(stop)
	agents.Wait()
	s.connect(t, s.agent).upgrade(t).exchange(t, ping, pong)
}

func TestSignedForTheFleetAndTheNamesAlone(t *testing.T) {
	s := newScene(t)
	s.relay.Switch(mode(t, "block"))
	if _, err := New(Config{Certificate: tls.Certificate{Certificate: [][]byte{{1}}}}); err == nil {
		t.Error("a certificate without its CA was taken")
	}
	c := clientTLS(s.roots, s.agent)
	c.ServerName = "localhost"
	if conn, err := tls.Dial("tcp", s.address, c); err != nil {
		t.Errorf("by the other name: %v", err)
	} else {
		_ = conn.Close()
	}
	c.ServerName = "elsewhere.example"
	if _, err := tls.Dial("tcp", s.address, c); err == nil {
		t.Error("the relay has a certificate for a name that it was not given")
	}
}

func TestControl(t *testing.T) {
	s := newScene(t)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s.relay.Control()}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-served })

	if err := Switch(t.Context(), socket, mode(t, "block")); err != nil || s.relay.Mode() != mode(t, "block") {
		t.Errorf("%v, and the mode is %s", err, s.relay.Mode())
	}
	if m, err := Ask(t.Context(), socket); err != nil || m != mode(t, "block") {
		t.Errorf("asked, it says %s, %v", m, err)
	}
	raw, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_, _ = io.WriteString(raw, "PUT /mode HTTP/1.1\r\nHost: relay\r\nContent-Length: 3\r\n\r\noff")
	resp, err := http.ReadResponse(bufio.NewReader(raw), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(b), `"off" is no mode: it is pass, block,`) {
		t.Errorf("%s: %s", resp.Status, b)
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	if err := Switch(t.Context(), socket, Mode{}); err == nil || !strings.Contains(err.Error(), "ask the relay") {
		t.Errorf("without a relay: %v", err)
	}
}

func TestModes(t *testing.T) {
	for name, want := range map[string]string{
		"pass": "pass", "block": "block", "cut=20": "cut=20s", "cut=1m30s": "cut=1m30s", "swallow": "swallow=pings",
		"swallow=pings": "swallow=pings", "swallow=pongs": "swallow=pongs", "half-open": "half-open", "half-open=all": "half-open=all",
	} {
		m := mode(t, name)
		if again := mode(t, m.String()); m.String() != want || again != m {
			t.Errorf("%s is %s, and that is %s", name, m, again)
		}
	}
	for _, name := range []string{"", "unblock", "cut", "cut=", "cut=0", "cut=-1", "cut=86401", "cut=x", "swallow=", "half-open=new", "BLOCK"} {
		if m, err := ParseMode(name); err == nil {
			t.Errorf("%q was taken for %s", name, m)
		}
	}
}
