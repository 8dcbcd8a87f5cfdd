package terminate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/perform"
)

// The test's own program is the victims', too: what it is to do is in its environment.
const role = "ROLLCALL_TEST_ROLE"

func TestMain(m *testing.M) {
	switch r := os.Getenv(role); r {
	case "":
		os.Exit(m.Run())
	case "stranger":
		stranger()
	default:
		live(r)
	}
}

// live is a victim: it says that it is there, writes a line to a file for each TERM, and ends then unless it is stubborn. "parent" starts two
// that are parents of one each.
func live(as string) {
	terms := make(chan os.Signal, 100)
	signal.Notify(terms, syscall.SIGTERM)
	count, err := os.OpenFile(os.Getenv("COUNT"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		os.Exit(1)
	}
	self, _ := os.Executable()
	start := func(as string) {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), role+"="+as)
		_ = cmd.Start()
	}
	switch as {
	case "parent":
		start("middle")
		start("middle")
	case "middle":
		start("leaf")
	}
	_, _ = io.WriteString(os.Stdout, "ready\n")
	for range terms {
		_, _ = fmt.Fprintln(count, os.Getpid())
		if as != "stubborn" {
			os.Exit(0)
		}
	}
}

// stranger does what is asked for on stdin, as whoever it runs as, and says what came of it.
func stranger() {
	b, _ := io.ReadAll(os.Stdin)
	m := &agentv1.TerminateProcess{}
	if err := protojson.Unmarshal(b, m); err != nil {
		os.Exit(1)
	}
	r := do(context.Background(), m)
	_ = json.NewEncoder(os.Stdout).Encode(r)
}

// victims are processes of one program.
type victims struct {
	t           *testing.T
	path, count string
	started     []*exec.Cmd
}

func newVictims(t *testing.T) *victims {
	t.Helper()
	dir := t.TempDir()
	v := &victims{t: t, path: filepath.Join(dir, fmt.Sprintf("victim%d", os.Getpid())), count: filepath.Join(dir, "count")}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(v.path, self, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pid := range v.alive() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		for _, cmd := range v.started {
			_ = cmd.Wait()
		}
	})
	return v
}

// start starts one and waits until it is there.
func (v *victims) start(as string) (pid int) {
	v.t.Helper()
	return v.startCommand(exec.Command(v.path), as)
}

func (v *victims) startCommand(cmd *exec.Cmd, as string) (pid int) {
	v.t.Helper()
	cmd.Env = append(os.Environ(), role+"="+as, "COUNT="+v.count)
	out, err := cmd.StdoutPipe()
	if err != nil {
		v.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	v.started = append(v.started, cmd)
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		v.t.Fatal(err)
	}
	return cmd.Process.Pid
}

// alive are the processes of the program.
func (v *victims) alive() (out []int) {
	pids, err := processes()
	if err != nil {
		v.t.Fatal(err)
	}
	for _, pid := range pids {
		s, err := readStat(pid)
		exe, _ := executable(pid)
		if err == nil && !s.ended() && strings.TrimSuffix(exe, deleted) == v.path {
			out = append(out, pid)
		}
	}
	return out
}

func (v *victims) terms() int {
	b, err := os.ReadFile(v.count)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		v.t.Fatal(err)
	}
	return bytes.Count(b, []byte("\n"))
}

// awaits waits until so many are alive.
func (v *victims) awaits(n int) {
	v.t.Helper()
	v.await(fmt.Sprintf("%d processes", n), func() bool { return len(v.alive()) == n })
}

func (v *victims) await(what string, ok func() bool) {
	v.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			v.t.Fatal("waited 20s for " + what)
		}
	}
}

func do(ctx context.Context, m *agentv1.TerminateProcess) perform.Result {
	return through(ctx, m, nil)
}

// through does it by the agent's runner; noted gets what is noted.
func through(ctx context.Context, m *agentv1.TerminateProcess, noted func([]byte)) perform.Result {
	r := perform.NewRunner()
	r.Start(&perform.Task{UID: "x", Action: &agentv1.Action{Parameters: &agentv1.Action_TerminateProcess{TerminateProcess: m}}}, New(), time.Minute, false)
	stop := context.AfterFunc(ctx, func() { r.Cancel("x") })
	defer stop()
	for e := range r.Events() {
		switch {
		case e.Result != nil:
			r.Ended("x")
			return *e.Result
		case e.Noted != nil:
			if noted != nil {
				noted(e.Intent)
			}
			e.Noted(nil)
		}
	}
	panic("no end")
}

func expect(t *testing.T, r perform.Result, outcome agentv1.Outcome, reason, message string) {
	t.Helper()
	if r.Outcome != outcome || r.Reason != reason || !regexp.MustCompile("^"+message+"$").MatchString(r.Message) {
		t.Fatalf("%s %s %q, want %s %s %q", r.Outcome, r.Reason, r.Message, outcome, reason, message)
	}
}

const (
	succeeded = agentv1.Outcome_OUTCOME_SUCCEEDED
	failed    = agentv1.Outcome_OUTCOME_FAILED
)

// One process by its executable: one TERM, and the sentence that people read.
func TestByExecutable(t *testing.T) {
	v := newVictims(t)
	pid := v.start("plain")
	r := do(t.Context(), &agentv1.TerminateProcess{Executable: v.path})
	expect(t, r, succeeded, "Done", fmt.Sprintf(`ended pid %d \(%s\) with TERM in \d+ ms`, pid, v.path))
	if p := r.Processes; len(p) != 1 || p[0].GetPid() != uint32(pid) || p[0].GetExecutable() != v.path || time.Since(p[0].GetStartTime().AsTime()).Abs() > time.Minute {
		t.Errorf("processes %v", r.Processes)
	}
	if v.terms() != 1 || len(v.alive()) != 0 {
		t.Errorf("%d TERMs, %d alive", v.terms(), len(v.alive()))
	}
	expect(t, do(t.Context(), &agentv1.TerminateProcess{Executable: v.path}), failed, "NoSuchProcess", "no process runs "+v.path)
}

// /bin is a link to /usr/bin: the path is understood. A link to the program itself is another name, and is not.
func TestByLinkedDirectory(t *testing.T) {
	v := newVictims(t)
	v.start("plain")
	dir := t.TempDir()
	if err := errors.Join(os.Symlink(filepath.Dir(v.path), filepath.Join(dir, "bin")), os.Symlink(v.path, filepath.Join(dir, "alias"))); err != nil {
		t.Fatal(err)
	}
	expect(t, do(t.Context(), &agentv1.TerminateProcess{Executable: filepath.Join(dir, "alias")}), failed, "NoSuchProcess",
		fmt.Sprintf("no process runs %s/alias, which is a link to %s", dir, v.path))
	expect(t, do(t.Context(), &agentv1.TerminateProcess{Executable: filepath.Join(dir, "bin", filepath.Base(v.path))}), succeeded, "Done", "ended pid .*")
}

// A PID means the process that began then, and no other.
func TestByPID(t *testing.T) {
	v := newVictims(t)
	pid := v.start("plain")
	s, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	began := New().began(s)
	at := func(off time.Duration) *agentv1.TerminateProcess {
		return &agentv1.TerminateProcess{Pid: uint32(pid), StartTime: timestamppb.New(began.Add(off))}
	}
	for _, off := range []time.Duration{-3 * tick, 2 * tick, time.Hour} {
		expect(t, do(t.Context(), at(off)), failed, "NoSuchProcess", fmt.Sprintf("the process with the pid %d began at .*Z, not at .*Z: it is another one", pid))
	}
	other := at(0)
	other.Executable = "/usr/bin/other"
	expect(t, do(t.Context(), other), failed, "NoSuchProcess", fmt.Sprintf(`pid %d \(%s\) does not run /usr/bin/other`, pid, v.path))
	other = at(0)
	other.Sha256 = strings.Repeat("0", 64)
	expect(t, do(t.Context(), other), failed, "NoSuchProcess", fmt.Sprintf(`what pid %d \(%s\) runs has the digest [0-9a-f]{12}…, not 000000000000…`, pid, v.path))
	// What is held is compared once more: between the search and the pidfd another process may have come.
	if held, err := New().hold(t.Context(), want(at(time.Hour)), pid, digests{}); err == nil {
		t.Errorf("holds %v", held)
	}
	if v.terms() != 0 {
		t.Fatal("ended what was not meant")
	}
	expect(t, do(t.Context(), at(tick)), succeeded, "Done", "ended pid .*")
	expect(t, do(t.Context(), &agentv1.TerminateProcess{Pid: 1 << 22, StartTime: timestamppb.Now()}), failed, "NoSuchProcess", "there is no process with the pid 4194304")
}

// By the content of what runs, also where the file is gone, or is another's by now.
func TestByDigest(t *testing.T) {
	v := newVictims(t)
	pid := v.start("plain")
	digest, err := digests{}.of(t.Context(), pid)
	if err != nil {
		t.Fatal(err)
	}
	// The test itself runs that content, too, and is left alone.
	if err := os.Remove(v.path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(v.path, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	expect(t, do(t.Context(), &agentv1.TerminateProcess{Executable: v.path, Sha256: strings.Repeat("0", 64)}), failed, "NoSuchProcess",
		fmt.Sprintf("no process runs %s with the digest 000000000000…", v.path))
	r := do(t.Context(), &agentv1.TerminateProcess{Executable: v.path, Sha256: digest})
	expect(t, r, succeeded, "Done", fmt.Sprintf(`ended pid %d \(%s\) with TERM in \d+ ms`, pid, v.path))
	expect(t, do(t.Context(), &agentv1.TerminateProcess{Sha256: strings.Repeat("0", 64)}), failed, "NoSuchProcess", "no process runs a file with the digest 000000000000…")
}

// The agent ends neither itself nor those that it descends from.
func TestProtected(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	expect(t, do(t.Context(), &agentv1.TerminateProcess{Executable: self}), failed, "NotPermitted", fmt.Sprintf(`pid %d \(.*\) was left alone: the agent needs it itself`, os.Getpid()))
	s, err := readStat(os.Getppid())
	if err != nil {
		t.Fatal(err)
	}
	m := &agentv1.TerminateProcess{Pid: uint32(os.Getppid()), StartTime: timestamppb.New(New().began(s)), Tree: true}
	expect(t, do(t.Context(), m), failed, "NotPermitted", fmt.Sprintf(`pid %d \(.*\) was left alone: the agent needs it itself`, os.Getppid()))
}

// Who does not heed TERM gets KILL after the grace; without a grace it is KILL at once.
func TestStubborn(t *testing.T) {
	v := newVictims(t)
	pid := v.start("stubborn")
	began := time.Now()
	r := do(t.Context(), &agentv1.TerminateProcess{Executable: v.path, Grace: durationpb.New(300 * time.Millisecond)})
	expect(t, r, succeeded, "Done", fmt.Sprintf(`ended pid %d \(%s\) with KILL in \d+ ms`, pid, v.path))
	if v.terms() != 1 || time.Since(began) < 300*time.Millisecond {
		t.Errorf("%d TERMs, after %s", v.terms(), time.Since(began))
	}
	v.start("stubborn")
	v.start("plain")
	r = do(t.Context(), &agentv1.TerminateProcess{Executable: v.path, Grace: durationpb.New(0)})
	expect(t, r, succeeded, "Done", fmt.Sprintf(`ended 2 processes \(%s\), 2 of them with KILL, in \d+ ms: pids \d+, \d+`, v.path))
	if v.terms() != 1 {
		t.Errorf("%d TERMs", v.terms())
	}
}

// The tree below a process: each gets one TERM, and nobody is left. Processes of the same program that are not below it are not touched.
func TestTree(t *testing.T) {
	v := newVictims(t)
	other, pid := v.start("plain"), v.start("parent")
	v.awaits(6)
	r := do(t.Context(), treeOf(t, pid))
	expect(t, r, succeeded, "Done", `ended 5 processes \(.*\), with TERM, in \d+ ms: pids `+strconv.Itoa(pid)+`(, \d+){4}`)
	if left := v.alive(); len(left) != 1 || left[0] != other || v.terms() > 5 { // one that has just begun ends without a word
		t.Errorf("%v are left after %d TERMs, want %d", left, v.terms(), other)
	}
}

// However fast a process starts others, none is left.
func TestTreeThatGrows(t *testing.T) {
	for _, grace := range []time.Duration{0, time.Second} {
		for range 5 {
			v := newVictims(t)
			pid := v.startCommand(exec.Command("/bin/sh", "-c", `while :; do "$0" & sleep 0.003; done`, v.path), "leaf")
			m := treeOf(t, pid)
			m.Grace = durationpb.New(grace)
			r := do(t.Context(), m)
			expect(t, r, succeeded, "Done", `ended .*`)
			if left := v.alive(); len(left) != 0 {
				t.Errorf("%d are left, %d were ended", len(left), len(r.Processes))
			}
		}
	}
}

// treeOf is a process and its descendants.
func treeOf(t *testing.T, pid int) *agentv1.TerminateProcess {
	t.Helper()
	s, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	return &agentv1.TerminateProcess{Pid: uint32(pid), StartTime: timestamppb.New(New().began(s)), Tree: true}
}

// Without the tree, children live on.
func TestChildrenAreLeftAlone(t *testing.T) {
	v := newVictims(t)
	pid := v.start("parent")
	v.awaits(5)
	m := treeOf(t, pid)
	m.Tree = false
	expect(t, do(t.Context(), m), succeeded, "Done", "ended pid .*")
	v.awaits(4)
}

// Taken back in the middle: no KILL follows, nobody is left stopped, and what was not ended is named.
func TestTakenBack(t *testing.T) {
	for _, tree := range []bool{false, true} {
		v := newVictims(t)
		pid := v.start("stubborn")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan perform.Result)
		go func() {
			done <- do(ctx, &agentv1.TerminateProcess{Executable: v.path, Tree: tree, Grace: durationpb.New(time.Minute)})
		}()
		v.await("a TERM", func() bool { return v.terms() > 0 })
		cancel()
		expect(t, <-done, agentv1.Outcome_OUTCOME_CANCELLED, "Cancelled", fmt.Sprintf(`taken back while it ran: ended none; pid %d \(%s\) is still there`, pid, v.path))
		if s, err := readStat(pid); err != nil || s.state == 'T' || v.terms() != 1 {
			t.Errorf("it is in state %c, %v, after %d TERMs", s.state, err, v.terms())
		}
	}
}

// As a plain user: a process of somebody else is left alone, and it is said whose it is.
func TestAnotherUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs to be root, to be somebody else")
	}
	v := newVictims(t)
	pid := v.start("plain")
	s, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "stranger") //nolint:usetesting // others may not enter that one
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program := filepath.Join(dir, "agent")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, self, 0o755), os.Chmod(program, 0o755)); err != nil {
		t.Fatal(err)
	}
	as := func(m *agentv1.TerminateProcess) perform.Result {
		t.Helper()
		in, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program)
		cmd.Env, cmd.Dir, cmd.Stdin = append(os.Environ(), role+"=stranger"), "/", bytes.NewReader(in)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.Output()
		r := perform.Result{}
		if err = errors.Join(err, json.Unmarshal(out, &r)); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return r
	}
	whose := `was left alone: it belongs to root, and the agent, user 65534, may not end it`
	byPID := &agentv1.TerminateProcess{Pid: uint32(pid), StartTime: timestamppb.New(New().began(s))}
	expect(t, as(byPID), failed, "NotPermitted", fmt.Sprintf(`pid %d \(%s\) %s; ended none`, pid, filepath.Base(v.path), whose))
	expect(t, as(&agentv1.TerminateProcess{Executable: v.path}), failed, "NotPermitted", fmt.Sprintf(`pid %d \(%s\) %s`, pid, filepath.Base(v.path), whose))
	expect(t, as(&agentv1.TerminateProcess{Executable: "/nonsense"}), failed, "NoSuchProcess",
		`no process runs /nonsense; \d+ may not be looked at by the agent, user 65534`)
	if v.terms() != 0 {
		t.Error("ended all the same")
	}
}

// A PID that is another process's by the time that the signal is sent: that process does not get it.
func TestReusedPID(t *testing.T) {
	v, other := newVictims(t), newVictims(t)
	pid := v.start("plain")
	x := New()
	f, err := x.find(t.Context(), want(&agentv1.TerminateProcess{Executable: v.path}))
	if err != nil || len(f.targets) != 1 {
		t.Fatalf("%v, %v", f, err)
	}
	if err := v.started[0].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = v.started[0].Wait()
	if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
		t.Skipf("a PID cannot be chosen here: %v", err)
	}
	if got := other.start("plain"); got != pid {
		t.Skipf("another process was faster: %d, not %d", got, pid)
	}
	d := &deed{x: x, grace: time.Second, family: f.targets}
	d.end(t.Context())
	expect(t, d.result(t.Context()), failed, "NoSuchProcess", fmt.Sprintf(`pid %d \(%s\) ended by itself`, pid, v.path))
	if other.terms() != 0 || len(other.alive()) != 1 {
		t.Error("the other process got the signal")
	}
}

// After an interruption the agent says what is left, and lets go on whom it had stopped.
func TestInterrupted(t *testing.T) {
	interrupted := func(intent []byte) perform.Result {
		t.Helper()
		r, ended := New().Interrupted(t.Context(), &perform.Task{Intent: intent})
		if !ended {
			t.Fatal("it would be done again")
		}
		return r
	}
	const unknown = agentv1.Outcome_OUTCOME_UNKNOWN
	expect(t, interrupted(nil), unknown, "Interrupted", "the agent was interrupted before it ended anything")

	v := newVictims(t)
	pid := v.start("parent")
	v.awaits(5)
	var intent []byte
	through(t.Context(), treeOf(t, pid), func(b []byte) { intent = b })
	expect(t, interrupted(intent), unknown, "Interrupted", fmt.Sprintf(`the agent was interrupted while it ended pid %d \(%s\): none is left`, pid, v.path))
	expect(t, interrupted(bytes.ReplaceAll(intent, []byte(bootID()), []byte("another"))), unknown, "Interrupted", `the machine was restarted while the agent ended pid .*`)

	pid = v.start("parent")
	v.awaits(5)
	s, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	f := family{{seen: seen{pid: pid, stat: s}, fd: must(t, pid)}}
	f.freeze(t.Context())
	if len(f) != 5 {
		t.Fatalf("stopped %d", len(f))
	}
	for _, p := range f {
		if s, err := readStat(p.pid); err != nil || !s.stopped() {
			t.Errorf("%d is in state %c", p.pid, s.state)
		}
	}
	b, err := json.Marshal(notes{Boot: bootID(), Tree: true, Processes: []noted{{PID: pid, Start: s.start, Exe: v.path}}})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, interrupted(b), unknown, "Interrupted", fmt.Sprintf(`the agent was interrupted while it ended pid %d \(%s\): 1 still there`, pid, v.path))
	for _, p := range f {
		if s, err := readStat(p.pid); err != nil || s.state == 'T' {
			t.Errorf("%d is left in state %c", p.pid, s.state)
		}
	}
	f.close()
}

func must(t *testing.T, pid int) int {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestParseStat(t *testing.T) {
	rest := " S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2 3\n"
	for _, name := range []string{"sleep", "a) S 1 (b", "", "((x"} {
		s, err := parseStat([]byte("12 (" + name + ")" + rest))
		if err != nil || s != (stat{name: name, state: 'S', parent: 7, start: 4242}) {
			t.Errorf("%q: %+v, %v", name, s, err)
		}
	}
	for _, bad := range []string{"", "12 (x", "12 (x) S 7", "12 )x( S", strings.Replace("12 (x)"+rest, "4242", "x", 1)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q parses", bad)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (x) S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2 3\n"))
	f.Add([]byte("()0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 20000000000000000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseStat(b); err != nil && s != (stat{}) {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

func TestShorten(t *testing.T) {
	long := "/" + strings.Repeat("ä", 200)
	if got := shorten(long); len(got) > 256 || len(got) < 254 || !strings.HasPrefix(got, "…ä") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
	if got := shorten("/a\nb"); got != "/a b" {
		t.Errorf("%q", got)
	}
}
