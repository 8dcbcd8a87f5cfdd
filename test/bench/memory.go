package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rollcall-dev/rollcall/test/bench/drill"
	"github.com/rollcall-dev/rollcall/test/bench/rig"
	"github.com/rollcall-dev/rollcall/test/bench/table"
)

const (
	// warmUp agents are connected before anything is counted: what the first ones cost is not what each costs.
	warmUp = 100
	// dialers connect at once.
	dialers = 32
	// requestBytes and replyBytes are of a heartbeat on a session, for servers that do not care, where none was seen in this run.
	requestBytes, replyBytes = 420, 560
)

// held is what a server holds, in bytes per connected agent: in all, and of it by Go's own account.
type held struct {
	each float64
	of   rig.Account
}

func (h held) String() string {
	return fmt.Sprintf("%.1f KB, of which %.1f objects, %.1f free space between them, %.1f stacks", h.each/1e3, h.of.Objects/1e3, (h.of.Heap-h.of.Objects)/1e3, h.of.Stacks/1e3)
}

// memory connects as many agents to each server, one server after the other, and compares what each holds once it is at rest.
func (b *bench) memory(ctx context.Context) ([]table.Row, error) {
	w, err := b.world(ctx)
	if err != nil {
		return nil, err
	}
	crowd, err := b.crowd(b.agents)
	if err != nil {
		return nil, err
	}
	defer crowd.Stop()
	w.stopGateway() // what it did before is not what is measured
	if err := w.start(ctx, rig.Unhurried...); err != nil {
		return nil, err
	}
	got := map[drill.Kind]held{}
	sizes := drill.Report{Request: requestBytes, Reply: replyBytes}
	for _, kind := range beside {
		b.say("memory: %d agents on %s", b.agents, kind)
		if got[kind], err = b.held(ctx, crowd, kind, &sizes); err != nil {
			return nil, err
		}
	}
	row := besideRow("memory", fmt.Sprintf("memory per connected agent, at %d", b.agents), got, func(h held) (float64, string) { return h.each / 1e3, "%.1f KB" })
	row.Goal = table.AtMost(row.Ratio, 1.2, "×")
	row.Notes = append(row.Notes, fmt.Sprintf("the gateway: %s; raw: %s; opamp-go: %s",
		got[drill.Session], got[drill.Raw], got[drill.OpAMP]))
	if row.Goal.Missed() { // once more, with a gateway that remembers who took what
		w.stopGateway()
		if w.gateway, err = w.Gateway(ctx, rig.Ready, append([]string{rig.Sampled}, rig.Unhurried...)...); err != nil {
			return nil, err
		}
		defer w.stopGateway()
		open := drill.Order{Deed: drill.Open, Kind: drill.Session, Address: w.gateway.Address, Count: b.agents, Workers: dialers}
		if _, _, err := b.fill(ctx, crowd, open, w.gateway); err != nil {
			return nil, err
		}
		err = b.missed(ctx, &row, w.gateway, rig.Heap, func() error { return nil })
	}
	return []table.Row{row}, err
}

// besideRow is a row of what was measured of each kind of server.
func besideRow[T any](key, name string, got map[drill.Kind]T, show func(T) (figure float64, format string)) table.Row {
	ours, format := show(got[drill.Session])
	raw, _ := show(got[drill.Raw])
	opamp, _ := show(got[drill.OpAMP])
	return table.Row{
		Key: key, Name: name, Value: fmt.Sprintf(format, ours), Beside: fmt.Sprintf(format+" raw", raw), Ratio: ours / raw,
		Notes: []string{fmt.Sprintf("opamp-go's server: "+format+", %.2f× raw", opamp, opamp/raw)},
	}
}

// held measures one server.
func (b *bench) held(ctx context.Context, crowd *rig.Crowd, kind drill.Kind, sizes *drill.Report) (held, error) {
	server, address, stop, err := b.server(ctx, kind, sizes.Reply)
	if err != nil {
		return held{}, err
	}
	defer stop()
	open := drill.Order{Deed: drill.Open, Kind: kind, Address: address, Count: warmUp, Workers: dialers, Request: sizes.Request, Reply: sizes.Reply}
	before, r, err := b.fill(ctx, crowd, open, server)
	if err != nil {
		return held{}, err
	}
	first, err := server.Account(ctx)
	if err != nil {
		return held{}, err
	}
	open.Count = b.agents - warmUp
	if kind == drill.Session { // the others get as many bytes, and answer with as many
		sizes.Request, sizes.Reply = r.Request, r.Reply
	}
	after, _, err := b.fill(ctx, crowd, open, server)
	if err != nil {
		return held{}, err
	}
	now, err := server.Account(ctx)
	if err != nil {
		return held{}, err
	}
	n := float64(open.Count)
	grown := now.Less(first)
	h := held{float64(after-before) / n, rig.Account{Objects: grown.Objects / n, Heap: grown.Heap / n, Stacks: grown.Stacks / n}}
	_, err = crowd.Do(drill.Order{Deed: drill.Close, Kind: kind})
	return h, err
}

// settled waits until all is written of what agents did, and the manager has written what follows.
func (b *bench) settled(ctx context.Context) error {
	if err := b.fleetOf.gateway.Idle(ctx, 2*time.Minute); err != nil {
		return err
	}
	return b.fleetOf.Quiet(ctx, 2*time.Second)
}

// rest is how long agents are silent before they beat once more: less than in the field, and long enough to count as a wait.
const rest = 3 * time.Second

// fill connects agents and waits until the server is at rest, as it is in the field: what was due is written, and each agent has beaten once after
// a while of silence. It returns what the server then holds, and what a heartbeat was.
func (b *bench) fill(ctx context.Context, crowd *rig.Crowd, open drill.Order, server rig.Server) (int64, drill.Report, error) {
	r, err := crowd.Do(open)
	if err != nil {
		return 0, r, err
	}
	if open.Kind == drill.Session {
		if err := b.settled(ctx); err != nil {
			return 0, r, err
		}
	}
	if err := pause(ctx, rest); err != nil {
		return 0, r, err
	}
	if r, err = crowd.Do(drill.Order{Deed: drill.Round, Kind: open.Kind, Workers: dialers}); err != nil {
		return 0, r, err
	}
	held, err := rig.Collected(ctx, server)
	return held, r, err
}

// server is a running one of the kind; the gateway is the one of the fleet, and goes on.
func (b *bench) server(ctx context.Context, kind drill.Kind, reply int) (s rig.Server, address string, stop func(), err error) {
	program := map[drill.Kind]string{drill.Raw: "rawserver", drill.OpAMP: "opampserver"}[kind]
	if program == "" {
		if err := b.fleetOf.start(ctx, rig.Unhurried...); err != nil {
			return nil, "", nil, err
		}
		return b.fleetOf.gateway, b.fleetOf.gateway.Address, func() {}, nil
	}
	subject, err := b.pki.Subject(ctx, b.bin, b.dir, program, reply)
	if err != nil {
		return nil, "", nil, err
	}
	return subject, subject.Address, subject.Kill, nil
}
