package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// programs are the real ones, built once.
type programs struct{ agent, cytool string }

func build(t *testing.T, flags ...string) programs {
	t.Helper()
	dir := t.TempDir()
	args := append([]string{"build", "-o", dir + "/"}, flags...)
	cmd := exec.CommandContext(t.Context(), "go", append(args, "../agent", "../cytool")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return programs{filepath.Join(dir, "agent"), filepath.Join(dir, "cytool")}
}

// shortDir is one whose socket's path is not too long.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rc") //nolint:usetesting // that one is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

type process struct {
	cmd *exec.Cmd
	log bytes.Buffer
}

func (p programs) start(t *testing.T, stdin string, args ...string) *process {
	t.Helper()
	proc := &process{cmd: exec.CommandContext(context.Background(), p.agent, args...)}
	proc.cmd.Stdin, proc.cmd.Stderr = strings.NewReader(stdin), &proc.log
	if err := proc.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proc.end(syscall.SIGKILL) })
	return proc
}

func (p *process) end(signal os.Signal) {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Signal(signal)
		_ = p.cmd.Wait()
	}
}

func (p programs) ask(t *testing.T, args ...string) (string, int) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), p.cytool, args...).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(out), 0
}

// eventually waits for a condition, looking often.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(20*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited 20s for: %s", what)
		case <-tick.C:
		}
	}
}

func mask(s string) string {
	for _, m := range []struct{ pattern, with string }{
		{`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}`, "UUID"}, // first: there may be a 5d in it
		{`127\.0\.0\.1:\d+`, "HOST:PORT"},
		{`/tmp/\S+`, "DIR"},
		{`20\d\d-[-0-9: ]+Z`, "DATE"},
		{`\b\d+[smhd]\d*[smh]?\b`, "TIME"},
		{`[\d.]+ ms`, "N ms"},
		{`the \d+(st|nd|rd|th)`, "the Nth"},
	} {
		s = regexp.MustCompile(m.pattern).ReplaceAllString(s, m.with)
	}
	return s
}

// The real programs: the token on stdin, what cytool shows and exits with, and what it says when the agent is gone.
func TestAgentAndCytool(t *testing.T) {
	p := build(t)
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	g.Websocket.Store(true)
	dir := shortDir(t)
	at := "--state-dir=" + dir
	if out, code := p.ask(t, at, "status"); code != 3 || !strings.Contains(out, "the agent is not running") || strings.Count(out, "\n") != 1 {
		t.Errorf("without an agent: exit %d\n%s", code, out)
	}
	agent := p.start(t, f.Token().Reveal(), "run", at, "--server="+g.URL.String(), "--token-file=-", "--proxy=direct", "--heartbeat-interval=1h")
	eventually(t, "online", func() bool { _, code := p.ask(t, at, "status"); return code == 0 })

	status, _ := p.ask(t, at, "status")
	want := `State            Online
Endpoint         UUID   (namespace fleet)
Fleet            UUID
Server           https://HOST:PORT   (gateway gw-test1-00000); no proxy
Websocket        connected for TIME
Trust            version 1, issued DATE
Certificate      expires in TIME, on DATE; renewal in TIME
Policy           none assigned: built-in defaults, a heartbeat every TIME
Content          none yet
Last heartbeat   TIME ago, accepted; next in TIME
Clock            as the fleet's; last beacon TIME old
Agent            8.0.0, ` + runtime.GOOS + "/" + runtime.GOARCH + `; start 1; DIR
`
	if diff := cmp.Diff(want, mask(status)); diff != "" {
		t.Errorf("cytool status (-want +got):\n%s", diff)
	}
	before := len(g.Beats())
	out, code := p.ask(t, at, "checkin")
	if mask(out) != "Heartbeat        accepted in N ms by gateway gw-test1-00000; next in TIME\n" || code != 0 || len(g.Beats()) != before+1 {
		t.Errorf("cytool checkin: exit %d, %d heartbeats\n%s", code, len(g.Beats())-before, out)
	}
	out, code = p.ask(t, at, "websocket")
	want = `Websocket        connected for TIME
Server           wss://HOST:PORT/agent/v1/session   (gateway gw-test1-00000)
Transport        TLS 1.2, ECDHE-ECDSA-AES128-GCM-SHA256, mutual; v1.agent.rollcall.dev; no proxy
Round trip       N ms, measured TIME ago
Last heartbeat   TIME ago, accepted; next in TIME
`
	if diff := cmp.Diff(want, mask(out)); diff != "" || code != 0 {
		t.Errorf("cytool websocket: exit %d (-want +got):\n%s", code, diff)
	}
	for command, key := range map[string]string{"status": "endpoint", "checkin": "endpoint", "websocket": "roundTripMilliseconds"} {
		out, _ := p.ask(t, command, "-o", "json", at)
		var m map[string]any
		if err := json.Unmarshal([]byte(out), &m); err != nil || m[key] == nil {
			t.Errorf("cytool %s -o json: %v\n%s", command, err, out)
		}
	}

	suspended := fleettest.Refuse(&wire.Problem{Name: wire.EndpointSuspended, Detail: "Suspended by a person."})
	g.Next(wire.PathSession, suspended, suspended, suspended)
	g.Session().Close(wire.CloseNotActive, "endpoint-suspended")
	eventually(t, "suspended", func() bool { _, code := p.ask(t, at, "status"); return code == 1 })
	if out, code := p.ask(t, at, "checkin"); code != 1 || !strings.Contains(out, "(endpoint-suspended)") || !strings.Contains(out, "What to do") {
		t.Errorf("refused: exit %d\n%s", code, out)
	}
	for _, args := range [][]string{{}, {"nonsense"}, {"status", "-o", "yaml"}, {"--nonsense"}, {"status", "checkin"}} {
		if out, code := p.ask(t, args...); code != 2 || out == "" {
			t.Errorf("cytool %v: exit %d\n%s", args, code, out)
		}
	}
	agent.end(syscall.SIGTERM)
	if code := agent.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the agent ends with %d:\n%s", code, agent.log.String())
	}
	if log := agent.log.String(); strings.Contains(log, f.Token().Reveal()) || !strings.Contains(log, `"msg":"enrolled"`) {
		t.Errorf("its log:\n%s", log)
	}
}

// Something on the way answers every upgrade with 403, and later does not.
func TestWebsocketIsBlocked(t *testing.T) {
	p := build(t)
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	g.Websocket.Store(true)
	at := "--state-dir=" + shortDir(t)
	p.start(t, f.Token().Reveal(), "run", at, "--server="+g.URL.String(), "--token-file=-", "--proxy=direct", "--heartbeat-interval=1s", "--websocket-retry-max=2s", "--retry-max=2s")
	state := func() string {
		out, _ := p.ask(t, at, "websocket", "-o", "json")
		var m struct{ State string }
		_ = json.Unmarshal([]byte(out), &m) // there may be no agent yet
		return m.State
	}
	eventually(t, "connected", func() bool { return state() == "connected" })
	forbid := func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		http.Error(w, "no", http.StatusForbidden)
	}
	g.Next(wire.PathSession, slices.Repeat([]fleettest.Answer{forbid}, 1000)...)
	g.Session().Cut()
	eventually(t, "heartbeats over HTTPS", func() bool { out, _ := p.ask(t, at, "websocket"); return strings.Contains(out, "over HTTPS, accepted") })
	out, code := p.ask(t, at, "websocket")
	want := `Websocket        disconnected for TIME: actions arrive with the next heartbeat, in TIME
Last error       the server, or a proxy on the way, answered the upgrade with 403 Forbidden
Next attempt     in TIME (the Nth)
Last heartbeat   TIME ago over HTTPS, accepted
`
	if got := strings.Replace(mask(out), "under way", "in TIME", 1); got != want || code != 1 {
		t.Errorf("cytool websocket: exit %d (-want +got):\n%s", code, cmp.Diff(want, got))
	}
	if out, code := p.ask(t, at, "status"); code != 0 || !strings.Contains(mask(out), "Websocket        disconnected for TIME: the upgrade was answered with 403\n") {
		t.Errorf("cytool status: exit %d\n%s", code, out)
	}
	g.Unbend(wire.PathSession)
	eventually(t, "connected again", func() bool { return state() == "connected" })
}

// An agent of a version from before websockets says the same sentence as kubectl does, and is served by heartbeats.
func TestOldVersion(t *testing.T) {
	p := build(t, "-ldflags", "-X github.com/rollcall-dev/rollcall/internal/agent.Version=6.0.4")
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	g.Websocket.Store(true)
	g.Next(wire.PathSession, func(w http.ResponseWriter, r *http.Request, real http.HandlerFunc) {
		if r.Header.Get(wire.HeaderAgentVersion) != "6.0.4" {
			real(w, r)
			return
		}
		(&wire.Problem{Name: wire.AgentVersionUnsupported, Minimum: "6.1", Detail: "Agent 6.0.4 is too old for the websocket, which needs 6.1 or later."}).Write(w)
	})
	at := "--state-dir=" + shortDir(t)
	p.start(t, f.Token().Reveal(), "run", at, "--server="+g.URL.String(), "--token-file=-", "--proxy=direct", "--heartbeat-interval=1s")
	eventually(t, "heartbeats", func() bool { return len(g.Beats()) >= 3 })
	out, code := p.ask(t, at, "websocket")
	want := `Websocket        unsupported; agent 6.0.4: the websocket needs 6.1 or later
Meanwhile        actions arrive with the next heartbeat, in TIME
Next attempt     in TIME (the Nth)
Last heartbeat   TIME ago over HTTPS, accepted
`
	if got := mask(out); got != want || code != 1 {
		t.Errorf("cytool websocket: exit %d (-want +got):\n%s", code, cmp.Diff(want, got))
	}
	if out, code := p.ask(t, at, "status"); code != 0 || !strings.Contains(out, "Websocket        unsupported; agent 6.0.4: the websocket needs 6.1 or later\n") {
		t.Errorf("cytool status: exit %d\n%s", code, out)
	}
	if n := len(g.Sessions()); n != 0 {
		t.Errorf("%d websockets", n)
	}
}

func TestAgentRefusesNonsense(t *testing.T) {
	p := build(t)
	dir := shortDir(t)
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("ret1.nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"--server https://host:port is missing":             {"run", "--state-dir=" + dir},
		"https://host:port and nothing more":                {"run", "--state-dir=" + dir, "--server=http://x"},
		"not an enrolment token":                            {"run", "--state-dir=" + dir, "--server=https://x", "--token-file=" + bad},
		"unknown flag":                                      {"run", "--nonsense"},
		"nothing that run takes":                            {"run", "ret1.secret", "--server=https://x"},
		"there is no command":                               {"nonsense"},
		"reset --yes":                                       {"reset", "--state-dir=" + dir},
		"is missing: this machine has not enrolled yet":     {"install", "--server=https://x", "--root=" + dir},
		"rollcall-agent keeps this machine enrolled":        {},
		"--log-level is debug, info or error, --log-format": {"run", "--server=https://x", "--log-level=loud"},
	} {
		out, err := exec.CommandContext(t.Context(), p.agent, args...).CombinedOutput()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != 2 || !strings.Contains(string(out), want) {
			t.Errorf("%v: %v\n%s\nwant exit 2 and %q", args, err, out, want)
		}
	}
}

// kill -9 at any moment of an enrolment and of the renewals that follow each other, with answers lost in between: one enrolment, the epochs
// of the starts in order, no damage, and at the end it is online.
func TestKill9(t *testing.T) {
	p := build(t)
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	g.Websocket.Store(true)
	g.Lifetime = 2 * time.Second // it renews all the time
	dir := shortDir(t)
	args := []string{"run", "--state-dir=" + dir, "--server=" + g.URL.String(), "--token-file=-", "--proxy=direct", "--heartbeat-interval=100ms", "--retry-base=5ms", "--retry-max=50ms", "--refused-retry=50ms"}
	const most = 400 // on a machine that is busy elsewhere an agent gets less far before it is killed
	beaten := func() map[string]bool {
		all := map[string]bool{}
		for _, b := range g.Beats() {
			all[b.GetAgent().GetInstanceId()] = true
		}
		return all
	}
	starts := 0
	for i := 0; i < 40 || i < most && (len(beaten()) < 5 || len(g.Requests(wire.PathRenew)) < 3); i++ {
		starts++
		if i%3 == 0 {
			g.Next([]string{wire.PathTrust, wire.PathEnroll, wire.PathRenew, wire.PathSession}[i/3%4], fleettest.Lose)
		}
		agent := p.start(t, f.Token().Reveal(), args...)
		timer := time.NewTimer(time.Duration(10+rand.IntN(150+10*i)) * time.Millisecond)
		<-timer.C
		agent.end(syscall.SIGKILL)
		if strings.Contains(agent.log.String(), "damaged") {
			t.Fatalf("start %d:\n%s", i, agent.log.String())
		}
	}
	g.Lifetime = time.Hour
	agent := p.start(t, f.Token().Reveal(), args...)
	eventually(t, "online", func() bool { _, code := p.ask(t, "--state-dir="+dir, "status"); return code == 0 })
	agent.end(syscall.SIGTERM)
	if g.Enrolled() != 1 {
		t.Errorf("%d enrolments", g.Enrolled())
	}
	instances, last := map[string]uint64{}, uint64(0)
	for _, b := range g.Beats() {
		a := b.GetAgent()
		if e, ok := instances[a.GetInstanceId()]; ok && e != a.GetEpoch() || a.GetEpoch() < last {
			t.Errorf("instance %s beats with epoch %d after %d", a.GetInstanceId(), a.GetEpoch(), last)
		}
		instances[a.GetInstanceId()], last = a.GetEpoch(), a.GetEpoch()
	}
	if len(instances) < 5 || len(g.Requests(wire.PathRenew)) < 3 {
		t.Errorf("only %d starts got to beat, and %d renewals came: this tested little", len(instances), len(g.Requests(wire.PathRenew)))
	}
	t.Logf("%d starts, %d beat, %d renewals, last epoch %d", starts+1, len(instances), len(g.Requests(wire.PathRenew)), last)
}

// systemd is told when the agent is ready, how it goes, that it is alive, and that it stops.
func TestTellsSystemd(t *testing.T) {
	p := build(t)
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	g.Websocket.Store(true)
	dir := shortDir(t)
	l, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "unixgram", filepath.Join(dir, "notify"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	agent := p.start(t, f.Token().Reveal(), "run", "--state-dir="+filepath.Join(dir, "s"), "--server="+g.URL.String(), "--token-file=-", "--proxy=direct")
	var told strings.Builder
	hears := func(what string) {
		t.Helper()
		b := make([]byte, 4096)
		if err := l.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for !strings.Contains(told.String(), what) {
			n, _, err := l.ReadFrom(b)
			if err != nil {
				t.Fatalf("waiting for %s, was told\n%s", what, told.String())
			}
			told.WriteString(string(b[:n]) + "\n")
		}
	}
	hears("READY=1")
	hears("WATCHDOG=1\nSTATUS=Online; last heartbeat 0s ago, accepted; next in ")
	agent.end(syscall.SIGTERM)
	hears("STOPPING=1")
}

func TestReset(t *testing.T) {
	p := build(t)
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	dir := shortDir(t)
	agent := p.start(t, f.Token().Reveal(), "run", "--state-dir="+dir, "--server="+g.URL.String(), "--token-file=-", "--proxy=direct")
	eventually(t, "online", func() bool { _, code := p.ask(t, "--state-dir="+dir, "status"); return code == 0 })
	reset := func() (string, error) {
		out, err := exec.CommandContext(t.Context(), p.agent, "reset", "--yes", "--state-dir="+dir).CombinedOutput()
		return string(out), err
	}
	if out, err := reset(); err == nil || !strings.Contains(out, "the agent is running") || !state.Has(dir) {
		t.Errorf("reset under a running agent: %v\n%s", err, out)
	}
	agent.end(syscall.SIGTERM)
	if out, err := reset(); err != nil || state.Has(dir) {
		t.Errorf("reset: %v\n%s", err, out)
	}
}

// The files of an identity are such that curl, and so any TLS library, can use them.
func TestCurlCanUseTheIdentity(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("no curl here")
	}
	p := build(t)
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	dir := shortDir(t)
	p.start(t, f.Token().Reveal(), "run", "--state-dir="+dir, "--server="+g.URL.String(), "--token-file=-", "--proxy=direct")
	eventually(t, "online", func() bool { _, code := p.ask(t, "--state-dir="+dir, "status"); return code == 0 })
	body, err := wire.Protobuf.Marshal(&agentv1.Heartbeat{Agent: &agentv1.AgentInfo{Version: "8.0.0", Platform: "x", InstanceId: strings.Repeat("0", 32), Epoch: 1}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "beat")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), curl, "--silent", "--insecure", "--tls-max", "1.2", "--noproxy", "*", "--cert", dir+"/identity/agent.crt", "--key", dir+"/identity/agent.key",
		"--header", "Content-Type: application/x-protobuf", "--header", wire.HeaderAgentVersion+": 8.0.0", "--data-binary", "@"+file,
		"--output", os.DevNull, "--write-out", "%{http_code}", g.URL.String()+wire.PathHeartbeat).CombinedOutput()
	if err != nil || string(out) != fmt.Sprint(http.StatusOK) {
		t.Errorf("curl: %v %s", err, out)
	}
}
