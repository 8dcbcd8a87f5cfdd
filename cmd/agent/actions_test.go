package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/agent/status"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// victim is a program of a path of its own, started again whenever it ends, that writes a line for each TERM that it gets.
type victim struct {
	path, count string
	ready       chan int
}

// buildVictim makes the program once.
func buildVictim(t *testing.T) (program []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "victim")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", file, "../../test/victim").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func startVictim(t *testing.T, program []byte, args ...string) *victim {
	t.Helper()
	dir := t.TempDir()
	v := &victim{path: filepath.Join(dir, "victim"), count: filepath.Join(dir, "count"), ready: make(chan int, 100)}
	if err := os.WriteFile(v.path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var now *exec.Cmd
	ending := false
	var group sync.WaitGroup
	group.Go(func() {
		for {
			cmd := exec.Command(v.path, append([]string{"--count=" + v.count}, args...)...)
			out, err := cmd.StdoutPipe()
			mu.Lock()
			if ending || err != nil || cmd.Start() != nil {
				mu.Unlock()
				return
			}
			now = cmd
			mu.Unlock()
			if bufio.NewScanner(out).Scan() {
				v.ready <- cmd.Process.Pid
			}
			_ = cmd.Wait()
		}
	})
	t.Cleanup(func() {
		mu.Lock()
		ending = true
		_ = now.Process.Kill()
		mu.Unlock()
		group.Wait()
	})
	<-v.ready
	return v
}

func (v *victim) terms(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(v.count)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "\n")
}

// end is an order to end the victim.
func (v *victim) end(grace time.Duration) func(*agentv1.Action) {
	return func(m *agentv1.Action) {
		m.Parameters = &agentv1.Action_TerminateProcess{TerminateProcess: &agentv1.TerminateProcess{Executable: v.path, Grace: durationpb.New(grace)}}
	}
}

// enrolled is the identity of the agent, once it has one.
func enrolled(t *testing.T, p programs, at string) (id string) {
	t.Helper()
	eventually(t, "online", func() bool {
		out, code := p.ask(t, at, "status", "-o", "json")
		var s status.Status
		if code != 0 || json.Unmarshal([]byte(out), &s) != nil {
			return false
		}
		id = s.Endpoint.Identity
		return true
	})
	return id
}

// The real agent ends a real process, once, and cytool shows what was done, by whom, and what is under way.
func TestActionsOnARealMachine(t *testing.T) {
	p, program := build(t), buildVictim(t)
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	g.Websocket.Store(true)
	at := "--state-dir=" + shortDir(t)
	agent := p.start(t, f.Token().Reveal(), "run", at, "--server="+g.URL.String(), "--token-file=-", "--proxy=direct", "--heartbeat-interval=1h", "--action-running=10ms")
	id := enrolled(t, p, at)
	if out, code := p.ask(t, at, "actions"); code != 0 || out != "no actions: none has come, and none is remembered\n" {
		t.Errorf("exit %d\n%s", code, out)
	}
	v, stubborn := startVictim(t, program), startVictim(t, program, "--stubborn")
	hello, helloUID := f.Action(id, nil)
	stop, stopUID := f.Action(id, v.end(time.Second))
	wait, waitUID := f.Action(id, stubborn.end(time.Minute))
	for _, order := range []*agentv1.Envelope{hello, stop, wait} {
		g.Session().Push(order)
	}
	eventually(t, "the results", func() bool {
		return len(g.Results(helloUID)) > 0 && len(g.Results(stopUID)) > 0 && len(g.Updates(waitUID)) > 1
	})
	eventually(t, "the acknowledgements", func() bool { out, _ := p.ask(t, at, "actions"); return strings.Count(out, "reported") == 2 })
	for uid, want := range map[string]string{
		helloUID: `full report received in \d+ ms`, stopUID: `ended pid \d+ \(` + regexp.QuoteMeta(v.path) + `\) with TERM in \d+ ms`,
	} {
		if r := g.Results(uid)[0]; r.GetOutcome() != agentv1.Outcome_OUTCOME_SUCCEEDED || !regexp.MustCompile("^"+want+"$").MatchString(r.GetMessage()) {
			t.Errorf("result %v", r)
		}
	}
	out, code := p.ask(t, at, "actions")
	want := `UID TYPE STATE SINCE BY RESULT
UUID TerminateProcess running TIME alice -
UUID PerformHeartbeat reported TIME alice Succeeded: full report received in N ms
UUID TerminateProcess reported TIME alice Succeeded: ended pid N (DIR with TERM in N ms
`
	if diff := cmp.Diff(want, maskActions(out)); diff != "" || code != 0 {
		t.Errorf("cytool actions: exit %d (-want +got):\n%s", code, diff)
	}
	if out, _ := p.ask(t, at, "status"); !strings.Contains(out, "\nActions          1 running\n") {
		t.Errorf("cytool status:\n%s", out)
	}
	out, _ = p.ask(t, at, "actions", "-o", "json")
	var a status.Actions
	if err := json.Unmarshal([]byte(out), &a); err != nil || len(a.Actions) != 3 || a.Actions[0].UID != waitUID || a.Actions[0].By != "alice" || a.Actions[1].Outcome != "Succeeded" {
		t.Errorf("%v\n%s", err, out)
	}

	g.Session().Push(f.Cancel(wait), stop)
	eventually(t, "the cancel", func() bool { return len(g.Results(waitUID)) > 0 })
	if r := g.Results(waitUID)[0]; r.GetOutcome() != agentv1.Outcome_OUTCOME_CANCELLED || !strings.Contains(r.GetMessage(), "is still there") {
		t.Errorf("result %v", r)
	}
	if v.terms(t) != 1 || stubborn.terms(t) != 1 || len(g.Results(stopUID)) != 1 {
		t.Errorf("%d and %d TERMs", v.terms(t), stubborn.terms(t))
	}
	agent.end(syscall.SIGTERM)
	if code := agent.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the agent ends with %d:\n%s", code, agent.log.String())
	}
}

// maskActions is what cytool actions prints without what differs each time: the two that were reported in one second may change places.
func maskActions(s string) string {
	s = regexp.MustCompile(`\b\d+ ms|pid \d+`).ReplaceAllStringFunc(s, func(m string) string { return regexp.MustCompile(`\d+`).ReplaceAllString(m, "N") })
	s = regexp.MustCompile(` {2,}`).ReplaceAllString(mask(s), " ")
	lines := strings.Split(s, "\n")
	if len(lines) == 5 && lines[2] > lines[3] {
		lines[2], lines[3] = lines[3], lines[2]
	}
	return strings.Join(lines, "\n")
}

// kill -9 at any moment while it ends processes and sends heartbeats, and gateways that lose what they are told: no process is ended a second
// time, and each action's end is told, one and no other.
func TestKill9WhileItActs(t *testing.T) {
	p, program := build(t), buildVictim(t)
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	g.Websocket.Store(true)
	dir := shortDir(t)
	at := "--state-dir=" + dir
	args := []string{
		"run", at, "--server=" + g.URL.String(), "--token-file=-", "--proxy=direct", "--heartbeat-interval=100ms", "--retry-base=5ms", "--retry-max=50ms",
		"--action-repeat=50ms", "--action-running=1ms",
	}
	first := p.start(t, f.Token().Reveal(), args...)
	id := enrolled(t, p, at)
	first.end(syscall.SIGTERM)

	type deed struct {
		order *agentv1.Envelope
		uid   string
		v     *victim
	}
	var mu sync.Mutex
	var deeds []deed
	g.SetOrders(func(string) []*agentv1.Envelope {
		mu.Lock()
		defer mu.Unlock()
		out := []*agentv1.Envelope{f.Assignment(id, "", time.Unix(1, 0))}
		for _, d := range deeds { // again and again, also those whose end it has
			out = append(out, d.order)
		}
		return out
	})
	lost := 0
	g.SetAck(func(fleettest.Update) *agentv1.Ack {
		if lost++; lost%3 == 0 {
			return fleettest.Refusal(&wire.Problem{Name: wire.NotReady})
		}
		return &agentv1.Ack{}
	})
	const rounds = 12
	for i := range rounds {
		v := startVictim(t, program, map[bool][]string{true: {"--stubborn"}, false: nil}[i%3 == 0]...)
		end, endUID := f.Action(id, v.end(20*time.Millisecond))
		hello, helloUID := f.Action(id, nil)
		mu.Lock()
		deeds = append(deeds, deed{end, endUID, v}, deed{hello, helloUID, nil})
		mu.Unlock()
		agent := p.start(t, "", args...)
		timer := time.NewTimer(time.Duration(20+rand.IntN(200)) * time.Millisecond)
		<-timer.C
		agent.end(syscall.SIGKILL)
		if strings.Contains(agent.log.String(), "damaged") {
			t.Fatalf("round %d:\n%s", i, agent.log.String())
		}
	}
	agent := p.start(t, "", args...)
	ends := map[string]int{}
	for _, d := range deeds {
		eventually(t, "an end of "+d.uid, func() bool { return len(g.Results(d.uid)) > 0 })
	}
	eventually(t, "all acknowledged", func() bool {
		out, _ := p.ask(t, at, "actions", "-o", "json")
		return strings.Count(out, `"reported"`) == len(deeds)
	})
	for _, d := range deeds {
		all := g.Results(d.uid)
		what := fmt.Sprintf("%s %s", all[0].GetOutcome(), all[0].GetReason())
		ends[what]++
		if len(all) != 1 {
			t.Errorf("%s ended as %v", d.uid, all)
		}
		switch {
		case d.v == nil && what != "OUTCOME_SUCCEEDED Done":
			t.Errorf("a heartbeat ended as %v", all[0])
		case d.v != nil && (d.v.terms(t) > 1 || strings.Contains(all[0].GetMessage(), " with TERM ") && d.v.terms(t) != 1): // KILL may come before it could count
			t.Errorf("%d TERMs, and it is told %v", d.v.terms(t), all[0])
		}
	}
	agent.end(syscall.SIGTERM)
	t.Logf("%d rounds: %v", rounds, ends)
}
