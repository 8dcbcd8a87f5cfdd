package main

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/rollcall-dev/rollcall/test/bench/drill"
	"github.com/rollcall-dev/rollcall/test/bench/stats"
)

// crowd is all clients of this process.
type crowd struct {
	dialer
	agents  []*agent
	clients map[drill.Kind][]client
	trusted bool
	attack  *siege
}

// obey does what is ordered, and reports what came of it.
func (c *crowd) obey(o drill.Order) drill.Report {
	began := time.Now()
	r, err := c.do(o)
	r.Took = time.Since(began)
	if err != nil {
		r.Errors = append(r.Errors, err.Error())
	}
	return r
}

func (c *crowd) do(o drill.Order) (drill.Report, error) {
	if (o.Kind == drill.Session || o.Kind == drill.HTTPS) && !c.trusted {
		if err := c.trustGateway(o.Address); err != nil {
			return drill.Report{}, err
		}
		c.trusted = true
	}
	if c.attack != nil {
		c.attack.end()
		c.attack = nil
	}
	switch o.Deed {
	case drill.Open:
		return c.open(o)
	case drill.Beat:
		return c.beat(o)
	case drill.Round:
		return c.round(o)
	case drill.Pace:
		return c.pace(o)
	case drill.Reconnect:
		return c.reconnect(o)
	case drill.Close:
		return c.close(o)
	case drill.Attack:
		c.attack = besiege(o, c.agents)
		return drill.Report{Done: o.Count}, nil
	default:
		return drill.Report{}, errors.New("there is no such deed: " + string(o.Deed))
	}
}

// open connects the next Count agents that have no client of the kind yet.
func (c *crowd) open(o drill.Order) (drill.Report, error) {
	have := len(c.clients[o.Kind])
	if have+o.Count > len(c.agents) {
		return drill.Report{}, errors.New("there are not as many agents")
	}
	made := make([]client, o.Count)
	t := c.share(o, func(t *tally, worker int) {
		for i := worker; i < o.Count; i += o.Workers {
			t.time(func() (err error) {
				made[i], err = c.connect(o, c.agents[have+i])
				return err
			})
		}
	})
	made = slices.DeleteFunc(made, func(m client) bool { return m == nil })
	c.clients[o.Kind] = append(c.clients[o.Kind], made...)
	return t.report(c.clients[o.Kind]), nil
}

// beat has all clients beat, one after the other, as fast as they are answered.
func (c *crowd) beat(o drill.Order) (drill.Report, error) {
	clients := c.clients[o.Kind]
	if len(clients) < o.Workers {
		return drill.Report{}, errors.New("there are fewer clients than workers")
	}
	end := time.Now().Add(o.Time)
	t := c.share(o, func(t *tally, worker int) {
		for i := worker; time.Now().Before(end); i += o.Workers {
			if i >= len(clients) {
				i = worker
			}
			t.time(clients[i].beat)
		}
	})
	return t.report(clients), nil
}

// round has each client beat once.
func (c *crowd) round(o drill.Order) (drill.Report, error) {
	clients := c.clients[o.Kind]
	t := c.share(o, func(t *tally, worker int) {
		for i := worker; i < len(clients); i += o.Workers {
			t.time(clients[i].beat)
		}
	})
	return t.report(clients), nil
}

// pace has them beat at a rate, whatever the answers take: each is timed from when it was due, so that one that is late is not left out.
func (c *crowd) pace(o drill.Order) (drill.Report, error) {
	clients := c.clients[o.Kind]
	if len(clients) < o.Workers || o.Rate <= 0 {
		return drill.Report{}, errors.New("there are fewer clients than workers, or there is no rate")
	}
	began := time.Now()
	every := time.Duration(float64(o.Workers) / o.Rate * float64(time.Second))
	t := c.share(o, func(t *tally, worker int) {
		due := began.Add(every * time.Duration(worker) / time.Duration(o.Workers))
		for i := worker; due.Before(began.Add(o.Time)); i, due = i+o.Workers, due.Add(every) {
			if i >= len(clients) {
				i = worker
			}
			if wait := time.Until(due); wait > 0 {
				<-time.After(wait)
			}
			t.since(due, clients[i].beat())
		}
	})
	return t.report(clients), nil
}

// reconnect opens a session of each of Count agents, which is closed at once.
func (c *crowd) reconnect(o drill.Order) (drill.Report, error) {
	if o.Skip+o.Count > len(c.agents) {
		return drill.Report{}, errors.New("there are not as many agents")
	}
	t := c.share(o, func(t *tally, worker int) {
		for i := worker; i < o.Count; i += o.Workers {
			t.time(func() error { return c.once(o, c.agents[o.Skip+i], t) })
		}
	})
	return t.report(nil), nil
}

func (c *crowd) once(o drill.Order, a *agent, t *tally) error {
	conn, err := c.dial(a, o.Address, o.Resume)
	if err != nil {
		return err
	}
	defer conn.Close()
	if conn.ConnectionState().DidResume {
		t.resumed++
	}
	s, err := openSession(a, conn, o.Address)
	if err != nil || !o.Hello {
		return err
	}
	return settle(s.exchange)
}

func (c *crowd) close(o drill.Order) (drill.Report, error) {
	n := len(c.clients[o.Kind])
	for _, m := range c.clients[o.Kind] {
		m.close()
	}
	delete(c.clients, o.Kind)
	return drill.Report{Done: n}, nil
}

// share has Workers do it, each with a tally of its own, and adds these up.
func (c *crowd) share(o drill.Order, do func(t *tally, worker int)) *tally {
	tallies := make([]tally, o.Workers)
	var all sync.WaitGroup
	for i := range tallies {
		all.Go(func() { do(&tallies[i], i) })
	}
	all.Wait()
	var sum tally
	for _, t := range tallies {
		sum.took, sum.failed, sum.resumed = append(sum.took, t.took...), sum.failed+t.failed, sum.resumed+t.resumed
		sum.errors = append(sum.errors, t.errors...)
	}
	return &sum
}

// tally is how it went.
type tally struct {
	took    []time.Duration
	failed  int
	resumed int
	errors  []string
}

func (t *tally) time(do func() error) {
	began := time.Now()
	t.since(began, do())
}

func (t *tally) since(began time.Time, err error) {
	if err == nil {
		t.took = append(t.took, time.Since(began))
		return
	}
	t.failed++
	if len(t.errors) < 1 {
		t.errors = append(t.errors, err.Error())
	}
}

func (t *tally) report(clients []client) drill.Report {
	slices.Sort(t.took)
	r := drill.Report{
		Done: len(t.took), Failed: t.failed, Resumed: t.resumed, Errors: t.errors[:min(3, len(t.errors))],
		Median: stats.Quantile(t.took, 0.5), P99: stats.Quantile(t.took, 0.99), Max: stats.Quantile(t.took, 1),
	}
	if len(clients) > 0 {
		r.Request, r.Reply = clients[0].sizes()
	}
	return r
}
