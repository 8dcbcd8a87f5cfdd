// Command soak is `make soak`: a fleet with the timers that are shipped, in real time. It counts what the API server was asked to write, then
// takes the API server away for a twelfth of the time, and asks what people saw.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/bench/rig"
	"github.com/rollcall-dev/rollcall/test/bench/table"
)

const (
	// settle is how long an enrolment has consequences.
	settle  = time.Minute
	outages = 12 // the API server is away for one of so many parts of the time

	sessions = "rollcall_gateway_sessions"
	broken   = "rollcall_gateway_sessions_closed_total"
)

// soak is one run.
type soak struct {
	*rig.System
	out      io.Writer
	began    time.Time
	agents   int
	duration time.Duration
	gateway  *rig.Gateway
	sim      *local.Process
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := &soak{out: os.Stdout, began: time.Now()}
	flag.IntVar(&s.agents, "n", 50, "agents")
	flag.DurationVar(&s.duration, "duration", time.Hour, "how long writes are counted; a twelfth of it the API server is away afterwards")
	dir := flag.String("dir", filepath.Join(rig.Root(), ".run", "soak"), "directory for logs")
	flag.Parse()
	if err := s.run(ctx, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "make soak:", err)
		os.Exit(1)
	}
}

func (s *soak) run(ctx context.Context, dir string) error {
	if s.duration < time.Minute {
		return errors.New("the duration is a minute at least")
	}
	tmp, err := os.MkdirTemp("", "rollcall-soak-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	machine := rig.Machine(s.agents)
	defer s.stop()
	if err := s.start(ctx, tmp, dir); err != nil {
		return err
	}
	writes, err := s.count(ctx)
	if err != nil {
		return err
	}
	outage, err := s.outage(ctx)
	if err != nil {
		return err
	}
	rows := append(writes, outage...)
	fmt.Fprintf(s.out, "\n%s", table.Text(machine, rows))
	for _, r := range rows {
		if r.Goal.Missed() {
			return errors.New("a goal was missed")
		}
	}
	return nil
}

func (s *soak) say(format string, args ...any) {
	fmt.Fprintf(s.out, "make soak: %5.0fs  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

func (s *soak) stop() {
	if s.sim != nil {
		s.sim.Stop(10 * time.Second)
	}
	if s.gateway != nil {
		s.gateway.Stop(25 * time.Second)
	}
	if s.System != nil {
		s.Stop()
	}
}

// start brings a fleet up and lets it come to rest.
func (s *soak) start(ctx context.Context, tmp, dir string) (err error) {
	s.say("building the programs")
	bin := filepath.Join(tmp, "bin")
	if err := rig.Build(ctx, bin); err != nil {
		return err
	}
	if s.System, err = rig.Start(ctx, filepath.Join(tmp, "system"), dir, bin); err != nil {
		return err
	}
	token, err := s.Token(ctx)
	if err != nil {
		return err
	}
	if s.gateway, err = s.Gateway(ctx, rig.Ready); err != nil {
		return err
	}
	states := filepath.Join(tmp, "agents")
	if s.sim, err = s.Fleetsim(token, states, s.agents); err != nil {
		return err
	}
	if err := rig.Enrolled(ctx, s.sim, states, s.agents); err != nil {
		return err
	}
	if err := s.connected(ctx); err != nil {
		return err
	}
	if err := s.Online(ctx, s.agents); err != nil {
		return err
	}
	s.say("%d agents are online, each with a session; logs are in %s", s.agents, dir)
	return pause(ctx, settle)
}

// connected waits until every agent has a session.
func (s *soak) connected(ctx context.Context) error {
	return rig.Poll(ctx, 10*time.Minute, func() error {
		n, err := s.gateway.Metric(ctx, sessions)
		if err == nil && int(n) < s.agents {
			err = fmt.Errorf("%.0f of %d agents have a session", n, s.agents)
		}
		return err
	})
}

// count counts writes while nothing happens.
func (s *soak) count(ctx context.Context) ([]table.Row, error) {
	s.say("counting writes for %s", s.duration)
	before, err := s.Writes()
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, s.duration); err != nil {
		return nil, err
	}
	after, err := s.Writes()
	if err != nil {
		return nil, err
	}
	since, hours := after.Since(before), s.duration.Hours()
	each := float64(since[rig.OfEndpoints]) / float64(s.agents) / hours
	row := table.Row{
		Key: "writes", Name: "API writes per endpoint and hour", Value: fmt.Sprintf("%.2f", each),
		Notes: []string{fmt.Sprintf("%d agents, %s; beside these, an hour: %s", s.agents, s.duration, since.Others(hours))},
	}
	if s.duration >= time.Hour { // in less, chance decides whose hour it is
		row.Goal = table.AtMost(each, 1, "")
	}
	return []table.Row{row}, nil
}

// outage takes the API server away.
func (s *soak) outage(ctx context.Context) ([]table.Row, error) {
	offline, err := s.Watch(ctx, "Offline")
	if err != nil {
		return nil, err
	}
	defer offline.Stop()
	unknown, err := s.Watch(ctx, "Unknown")
	if err != nil {
		return nil, err
	}
	defer unknown.Stop()
	before, err := s.gateway.Metric(ctx, broken)
	if err != nil {
		return nil, err
	}
	away := s.duration / outages
	s.say("the API server is away for %s", away)
	if err := s.API.ControlPlane.StopAPIServer(ctx); err != nil {
		return nil, err
	}
	if err := pause(ctx, away); err != nil {
		return nil, err
	}
	if err := s.API.ControlPlane.StartAPIServer(ctx); err != nil {
		return nil, err
	}
	s.say("the API server is back")
	select {
	case <-s.Manager.Done(): // a leader that could not renew its Lease ends, and a kubelet starts it again
		if err := s.RestartManager(ctx); err != nil {
			return nil, err
		}
	case <-time.After(5 * time.Second):
	}
	if err := pause(ctx, max(away, settle)); err != nil { // what was due meanwhile comes now
		return nil, err
	}
	after, err := s.gateway.Metric(ctx, broken)
	if err != nil {
		return nil, err
	}
	return []table.Row{
		{
			Key: "outage", Name: "endpoints shown Offline after the API server was away", Value: fmt.Sprint(offline.Seen()), Beside: fmt.Sprintf("%d endpoints", s.agents),
			Goal: table.AtMost(float64(offline.Seen()), 0, ""), Notes: []string{fmt.Sprintf("away for %s; %d were shown Unknown", away, unknown.Seen())},
		},
		{Key: "outage", Name: "sessions that broke meanwhile", Value: fmt.Sprintf("%.0f", after-before), Goal: table.AtMost(after-before, 0, "")},
	}, s.Online(ctx, s.agents)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
