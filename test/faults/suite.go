package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// suite is all systems and all runs.
type suite struct {
	options
	dir string
	say func(format string, args ...any)

	mu     sync.Mutex
	planes []*plane
	lanes  []*lane
	queue  []job
	matrix matrix
}

// job is a run to do.
type job struct {
	number, cell int
	channel      v1alpha1.Channel
	tries        int
}

// maxTries of a run that has missed its moment.
const maxTries = 3

// start starts the systems that are needed, side by side.
func (s *suite) start(ctx context.Context) error {
	s.matrix.cells = slices.DeleteFunc(cells(), func(c cell) bool { return !s.match.MatchString(c.String()) })
	if len(s.matrix.cells) == 0 {
		return fmt.Errorf("no moment has %q", s.match)
	}
	s.queue = s.plan()
	mortal := func(j job) bool { return s.matrix.cells[j.cell].dies == apiServer }
	immortal := func(j job) bool { return !mortal(j) }
	failures := make([]error, 2)
	var group sync.WaitGroup
	if s.races > 0 || slices.ContainsFunc(s.queue, immortal) {
		group.Go(func() { failures[0] = s.startPlane(ctx, "plane", false, s.options.lanes) })
	}
	if s.races == 0 && slices.ContainsFunc(s.queue, mortal) {
		group.Go(func() { failures[1] = s.startPlane(ctx, "mortal", true, 1) })
	}
	group.Wait()
	return errors.Join(failures...)
}

// startPlane starts a control plane with lanes. Of a mortal one the API server dies in some runs.
func (s *suite) startPlane(ctx context.Context, name string, mortal bool, lanes int) error {
	dir := filepath.Join(s.dir, name)
	p, err := startPlane(ctx, dir, filepath.Join(s.dir, "bin"))
	s.mu.Lock()
	s.planes = append(s.planes, p)
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("start a control plane: %w", err)
	}
	p.mortal = mortal
	for n := range lanes {
		l, err := startLane(ctx, p, dir, fmt.Sprintf("lane-%d", n))
		s.mu.Lock()
		s.lanes = append(s.lanes, l)
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// plan is the runs: all cells on all channels in an order that the seed decides, and again, until there are as many as were asked for.
func (s *suite) plan() (plan []job) {
	random := rand.New(rand.NewPCG(s.seed, 0))
	for len(plan) == 0 || len(plan) < max(s.runs, s.only) {
		var round []job
		for i, c := range s.matrix.cells {
			for _, channel := range channels {
				if c.has(channel) {
					round = append(round, job{cell: i, channel: channel})
				}
			}
		}
		random.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		plan = append(plan, round...)
	}
	for i := range plan {
		plan[i].number = i + 1
	}
	switch {
	case s.only > 0:
		return plan[s.only-1 : s.only]
	case s.runs > 0:
		return plan[:s.runs]
	default:
		return plan
	}
}

// play does all runs and prints the matrix.
func (s *suite) play(ctx context.Context, out io.Writer) error {
	s.say("%d runs of %d moments, seed %d", len(s.queue), len(s.matrix.cells), s.seed)
	failures := make([]error, len(s.lanes))
	var group sync.WaitGroup
	for i, l := range s.lanes {
		group.Go(func() {
			for failures[i] == nil && ctx.Err() == nil {
				j, ok := s.next(l)
				if !ok {
					break
				}
				failures[i] = s.do(ctx, l, j)
			}
			for len(l.past) > 0 && failures[i] == nil {
				failures[i] = l.letGo()
			}
		})
	}
	group.Wait()
	fine := s.matrix.write(out)
	s.say("%d runs, of %.1fs in the middle and %.1fs at most", len(s.matrix.results), s.matrix.took(.5).Seconds(), s.matrix.took(1).Seconds())
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if !fine && s.only == 0 {
		return errors.New("see above what was wrong, and which moments were never there")
	}
	return nil
}

// next is what is to be done next on a lane.
func (s *suite) next(l *lane) (job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.queue, func(j job) bool { return (s.matrix.cells[j.cell].dies == apiServer) == l.mortal })
	if i < 0 {
		return job{}, false
	}
	j := s.queue[i]
	s.queue = slices.Delete(s.queue, i, i+1)
	return j, true
}

// do does a run. Its error is not what is wrong with the system that is tested.
func (s *suite) do(ctx context.Context, l *lane, j job) error {
	c := s.matrix.cells[j.cell]
	j.tries++
	began := time.Now()
	r, err := newRun(ctx, l, c, j.channel, fmt.Sprintf("run-%d-%d", j.number, j.tries), s.seed<<32+uint64(j.number))
	if err != nil {
		return fmt.Errorf("prepare run %d (%s, %s): %w", j.number, c, j.channel, err)
	}
	result := &result{number: j.number, cell: j.cell, channel: j.channel, outcome: missed}
	e, err := r.play(ctx)
	result.took = time.Since(began)
	kept := past{result: result, victim: r.victim}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		result.wrong, kept.terms = e.judge(), e.terms
		if !e.strayed() || c.either {
			result.outcome = string(e.action.Status.Phase)
		}
	case errors.Is(err, errMissed): // it goes on by itself
		kept.terms = len(l.machines[j.channel])
	default:
		result.outcome, result.wrong = "stuck", []string{err.Error()}
	}
	s.note(j, result)
	return l.keep(kept)
}

func (s *suite) note(j job, r *result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.matrix.results = append(s.matrix.results, r)
	if r.outcome == missed && j.tries < maxTries {
		s.queue = append(s.queue, j)
	}
	mark := r.outcome
	if len(r.wrong) > 0 {
		mark = fmt.Sprintf("%s, WRONG: %q", mark, r.wrong)
	}
	s.say("run %d: %s, %s: %s in %.1fs", r.number, s.matrix.cells[r.cell], r.channel, mark, r.took.Seconds())
}

// stop ends all systems.
func (s *suite) stop() error {
	var failures []error
	for _, l := range s.lanes {
		if l != nil {
			l.stop()
		}
	}
	for _, p := range s.planes {
		if p != nil {
			failures = append(failures, p.stop())
		}
	}
	return errors.Join(failures...)
}
