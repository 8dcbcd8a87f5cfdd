package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/bench/drill"
	"github.com/rollcall-dev/rollcall/test/bench/subject"
)

// Subject is a server that the gateway is measured beside.
type Subject struct {
	*local.Process
	Address string
}

// Subject starts the program, rawserver or opampserver, whose answers have reply bytes.
func (p *PKI) Subject(ctx context.Context, bin, logs, program string, reply int) (*Subject, error) {
	log := filepath.Join(logs, program+"-"+strconv.FormatInt(time.Now().UnixNano(), 36)+".log")
	process, err := local.StartEnv(program, log, []string{gogc}, filepath.Join(bin, program), "--cert="+p.Cert, "--key="+p.Key, "--reply="+strconv.Itoa(reply))
	if err != nil {
		return nil, err
	}
	s := &Subject{Process: process}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return s, process.WaitFor(ctx, func(context.Context) error {
		b, err := os.ReadFile(log)
		line, _, whole := strings.Cut(string(b), "\n")
		if err == nil && !whole {
			err = errors.New("it does not listen yet")
		}
		s.Address = line
		return err
	})
}

// Account reads what the server has logged when it last collected.
func (s *Subject) Account(context.Context) (a Account, err error) {
	b, err := os.ReadFile(s.Log)
	if err != nil {
		return a, err
	}
	line := string(b[bytes.LastIndex(b, []byte(subject.Collected))+1:])
	if _, err := fmt.Sscanf(line, subject.Collected[1:]+"%g %g %g", &a.Objects, &a.Heap, &a.Stacks); err != nil {
		return a, fmt.Errorf("%s has not collected: %w", s.Name, err)
	}
	return a, nil
}

// humble has a command get the CPU time that nobody else wants (SCHED_IDLE): in the field, what it stands for has machines of its own.
func humble(command []string) []string { return append([]string{"chrt", "--idle", "0"}, command...) }

// Crowd is the process of clients.
type Crowd struct {
	cmd     *exec.Cmd
	stdin   io.Closer
	orders  *json.Encoder
	answers *json.Decoder
}

// NewCrowd starts one with agents that fleetsim has enrolled in states, leaving out the first from, with an own address. Where it is last, it
// only gets the CPU time that nobody else wants.
func NewCrowd(bin, logs, states, ca string, from, count int, source string, last bool) (*Crowd, error) {
	log, err := os.OpenFile(filepath.Join(logs, "crowd.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := []string{filepath.Join(bin, "crowd"), "--states=" + states, "--from=" + strconv.Itoa(from), "--count=" + strconv.Itoa(count), "--ca=" + ca, "--source=" + source}
	if last {
		command = humble(command)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the crowd: %w", err)
	}
	return &Crowd{cmd: cmd, stdin: in, orders: json.NewEncoder(in), answers: json.NewDecoder(out)}, nil
}

// Do has it do something. More than one failure in a hundred is an error.
func (c *Crowd) Do(o drill.Order) (drill.Report, error) {
	r, err := c.Try(o)
	if err != nil {
		return r, err
	}
	if r.Failed*100 > r.Done || r.Done == 0 && len(r.Errors) > 0 {
		return r, fmt.Errorf("%s %s: %d failed, %d did not: %s", o.Deed, o.Kind, r.Failed, r.Done, strings.Join(r.Errors, "; "))
	}
	return r, nil
}

// Try has it do something, whatever comes of it.
func (c *Crowd) Try(o drill.Order) (drill.Report, error) {
	var r drill.Report
	if err := c.orders.Encode(o); err != nil {
		return r, fmt.Errorf("the crowd is gone: %w", err)
	}
	if err := c.answers.Decode(&r); err != nil {
		return r, fmt.Errorf("the crowd is gone: %w", err)
	}
	return r, nil
}

// Stop ends it.
func (c *Crowd) Stop() {
	_ = c.stdin.Close()
	killed := time.AfterFunc(5*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer killed.Stop()
	_ = c.cmd.Wait() // how it ends does not matter
}
