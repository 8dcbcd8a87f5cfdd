package main

import (
	"context"

	"github.com/rollcall-dev/rollcall/test/bench/table"
)

// measure is a row, or some that are measured together.
type measure struct {
	key, what string
	do        func(*bench, context.Context) ([]table.Row, error)
}

// measures in the order in which they are taken. The first ones leave agents as they are; those that connect them with an epoch of their own
// come after the fleet that was enrolled with.
var measures = []measure{
	{"stored", "the gateway's memory per Endpoint that it knows of", (*bench).stored},
	{"writes", "the API server's writes per endpoint and hour, an hour in a minute", (*bench).writes},
	{"agent", "the agent's memory and size", (*bench).agent},
	{"fleet", "kill -9 of the gateway under a fleet of sessions", (*bench).fleet},
	{"memory", "memory per connected agent", (*bench).memory},
	{"heartbeats", "heartbeats per second of the server's CPU", (*bench).heartbeats},
	{"reconnect", "the server's CPU for an agent that comes back", (*bench).reconnect},
	{"attack", "good agents' heartbeats while others do their worst", (*bench).attack},
}

func keys() (all []string) {
	for _, m := range measures {
		all = append(all, m.key)
	}
	return all
}
