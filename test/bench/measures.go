package main

import (
	"context"
	"slices"

	"github.com/rollcall-dev/rollcall/test/bench/table"
)

// measure is a row, or some that are measured together.
type measure struct {
	key, what string
	needs     need
	do        func(*bench, context.Context) ([]table.Row, error)
}

// need of a measure.
type need int

const (
	// alone: the machine.
	alone need = iota
	// little: it does not mind what else the machine does.
	little
	// agents that have enrolled.
	agents
)

// measures in the order in which they are taken: agents enrol from the first on that does not mind. Those that connect agents with an epoch of
// their own come after the fleet that goes on with the epochs of before.
var measures = []measure{
	{"stored", "the gateway's memory per Endpoint that it knows of", alone, (*bench).stored},
	{"actions", "from a person's create to the agent", alone, (*bench).actions},
	{"writes", "the API server's writes per endpoint and hour, an hour in a minute", little, (*bench).writes},
	{"agent", "the agent's memory and size", little, (*bench).agent},
	{"fleet", "kill -9 of the gateway under a fleet of sessions", agents, (*bench).fleet},
	{"selector", "one action on many endpoints", agents, (*bench).selector},
	{"downloads", "good agents' heartbeats while 200 others download content", agents, (*bench).downloads},
	{"memory", "memory per connected agent", agents, (*bench).memory},
	{"heartbeats", "heartbeats per second of the server's CPU", agents, (*bench).heartbeats},
	{"reconnect", "the server's CPU for an agent that comes back", agents, (*bench).reconnect},
	{"attack", "good agents' heartbeats while others do their worst", agents, (*bench).attack},
}

// wanted are the measures of the rows that are asked for.
func wanted(rows []string) (some []measure) {
	for _, m := range measures {
		if len(rows) == 0 || slices.Contains(rows, m.key) {
			some = append(some, m)
		}
	}
	return some
}

// mayEnrol tells whether agents can enrol while the first of these is taken, because they are needed later.
func mayEnrol(left []measure) bool {
	return left[0].needs == little && slices.ContainsFunc(left, func(m measure) bool { return m.needs == agents })
}

func keys() (all []string) {
	for _, m := range measures {
		all = append(all, m.key)
	}
	return all
}
