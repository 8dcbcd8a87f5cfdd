package main

import (
	"context"
	"fmt"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/faults"
)

// program is one that dies.
type program string

// The programs.
const (
	manager   program = "manager"
	gateway   program = "gateway"
	agent     program = "agent"
	apiServer program = "API server"
	// nobody dies: the program is held, and overtaken.
	nobody program = "nobody"
)

// cell is a moment at which a program dies, on each channel. The manager's and the gateway's points are writes of the rows of docs/actions.md.
type cell struct {
	// dies when at comes by the point. If that is another program, it is held there meanwhile. held says that it is also if it is the same.
	dies, at program
	held     bool
	point    string
	// about is what that means for people.
	about string
	play  func(context.Context, *run) error
	// ends are those that the action may come to.
	ends []v1alpha1.ActionPhase
	// stubborn is the victim that goes on after a TERM; deleted an action that is deleted in the end.
	stubborn, deleted bool
	// only is the channel that has this moment; empty: both. either says that the action may go by the other one in the end.
	only   v1alpha1.Channel
	either bool
}

func (c cell) String() string { return fmt.Sprintf("%s: %s (%s)", c.dies, c.point, c.about) }

type option func(*cell)

func withStubborn(c *cell)    { c.stubborn = true }
func withDeletion(c *cell)    { c.deleted = true }
func whileHeld(c *cell)       { c.held = true }
func withWebSocket(c *cell)   { c.only = v1alpha1.ChannelWebSocket }
func withEither(c *cell)      { c.either = true }
func while(at program) option { return func(c *cell) { c.at = at } }

// ends of actions, for short.
const (
	succeeded   = v1alpha1.ActionSucceeded
	failed      = v1alpha1.ActionFailed
	unknown     = v1alpha1.ActionUnknown
	expired     = v1alpha1.ActionExpired
	cancelled   = v1alpha1.ActionCancelled
	unsupported = v1alpha1.ActionUnsupported
)

func ends(phases ...v1alpha1.ActionPhase) []v1alpha1.ActionPhase { return phases }

type play = func(context.Context, *run) error

// moment is one cell.
func moment(dies program, when string, what any, about string, p play, ends []v1alpha1.ActionPhase, opts ...option) cell {
	c := cell{dies: dies, at: dies, point: faults.Point(when, what), about: about, play: p, ends: ends}
	for _, set := range opts {
		set(&c)
	}
	return c
}

// around is before and after.
func around(dies program, what any, about string, p play, ends []v1alpha1.ActionPhase, opts ...option) []cell {
	return []cell{
		moment(dies, faults.WhenBefore, what, about, p, ends, opts...),
		moment(dies, faults.WhenAfter, what, about, p, ends, opts...),
	}
}

// cells are the rows of the matrix.
func cells() (all []cell) {
	for _, group := range [][]cell{ofManager(), ofGateway(), ofAgent(), ofAPIServer(), ofNobody()} {
		all = append(all, group...)
	}
	return all
}

func ofManager() (all []cell) {
	for _, group := range [][]cell{
		around(manager, "2", "the admission", once, ends(succeeded)),
		around(manager, "3", "what it waits for: the endpoint is suspended", suspended, ends(succeeded)),
		around(manager, "4", "the agent cannot do it", impossible, ends(unsupported)),
		around(manager, "5", "cancelled before it was sent", takenBack, ends(cancelled)),
		around(manager, "6", "expired before it was sent", expiring, ends(expired)),
		around(manager, "17", "a cancel of what was sent", stoppedMidway, ends(cancelled), withStubborn),
		around(manager, "19", "nobody reported", unheard, ends(unknown)),
		around(manager, "27", "a change after the end was seen", outlived, ends(succeeded), withDeletion),
		around(manager, "24", "its time to live is over", outlived, ends(succeeded), withDeletion),
		around(manager, "child", "a child of a selector", manyOnce, ends(succeeded)),
		around(manager, "P1", "all children are there", manyOnce, ends(succeeded)),
		around(manager, "P2", "the next child's turn", manyOnce, ends(succeeded)),
		around(manager, "P3", "no more children: cancelled", manyStopped, ends(cancelled), withStubborn),
		around(manager, "P4", "all children succeeded", manyOnce, ends(succeeded)),
		around(manager, "P5", "some children failed", manyFailing, ends(failed)),
		around(manager, "P6", "all children ended after a cancel", manyStopped, ends(cancelled), withStubborn),
		around(manager, "P7", "it is too late to begin", overdue, ends(expired)),
	} {
		all = append(all, group...)
	}
	return all
}

func ofGateway() (all []cell) {
	before := faults.WhenBefore
	for _, group := range [][]cell{
		{
			moment(gateway, before, "8", "sent: about to be written", once, ends(succeeded), withEither),
			moment(gateway, before, "8", "the same, and then it is cancelled", withdrawn, ends(cancelled), whileHeld),
			moment(gateway, before, "8", "the same, and then it expires", lapsed, ends(expired), whileHeld),
			moment(gateway, faults.WhenAfter, "8", "sent: written, and not a byte has left", once, ends(succeeded)),
			moment(gateway, before, "RECEIVED", "the bytes are with the agent", once, ends(succeeded), while(agent)),
			moment(gateway, before, "sending", "sent again (row 9)", repeated, ends(succeeded)),
		},
		around(gateway, "10", "it runs", long, ends(succeeded), withStubborn),
		around(gateway, "12", "the result; after the write is before the ack", once, ends(succeeded)),
		around(gateway, "12", "the same, of what is known to run", long, ends(succeeded), withStubborn),
		{moment(gateway, before, "SETTLED", "the ack is with the agent", once, ends(succeeded), while(agent))},
		around(gateway, "13", "the result: failed", failing, ends(failed)),
		around(gateway, "14", "the result: refused, too late", tooLate, ends(expired)),
		around(gateway, "16", "the result: cancelled before it came", cancelFirst, ends(cancelled)),
		around(gateway, "16", "the result: stopped while it ran", stoppedMidway, ends(cancelled), withStubborn),
		{
			moment(gateway, before, "sending", "the cancel (row 17)", stoppedMidway, ends(cancelled), withStubborn),
			moment(gateway, before, "cancel", "the cancel is with the agent", stoppedMidway, ends(cancelled), withStubborn, while(agent)),
		},
		around(gateway, "18", "the result: interrupted", interrupted, ends(unknown)),
		around(gateway, "19a", "the agent does not know it any more", forgotten, ends(unknown), withStubborn),
		around(gateway, "21", "a result after the end", reportedLate, ends(unknown)),
	} {
		all = append(all, group...)
	}
	return all
}

func ofAgent() (all []cell) {
	after := faults.WhenAfter
	acknowledged, finished := agentv1.ActionPhase_ACTION_PHASE_ACKNOWLEDGED, agentv1.ActionPhase_ACTION_PHASE_FINISHED
	for _, group := range [][]cell{
		around(agent, "RECEIVED", "taken: after it is before the ack", once, ends(succeeded)),
		{moment(agent, after, acknowledged, "the ack is sent", once, ends(succeeded), withWebSocket)},
		{moment(agent, faults.WhenBefore, "STARTED", "about to begin", once, ends(succeeded))},
		{
			moment(agent, after, "STARTED", "begun, and nothing is done", once, ends(unknown)),
			moment(agent, after, "intent", "it is noted what will be done", once, ends(unknown)),
			moment(agent, after, "signal", "in the middle of it", once, ends(unknown)),
			moment(agent, after, "heartbeat", "a heartbeat said that it runs", told, ends(unknown), withStubborn),
			moment(agent, after, "10", "that it runs is written", long, ends(unknown), withStubborn, while(gateway)),
			moment(agent, faults.WhenBefore, "FINISHED", "done, and the result is not kept", once, ends(unknown)),
		},
		{
			moment(agent, after, "FINISHED", "the result is kept, and not sent", once, ends(succeeded)),
			moment(agent, after, finished, "the result is sent", once, ends(succeeded)),
		},
		around(agent, "SETTLED", "the ack of the result", once, ends(succeeded)),
		around(agent, "refusal", "refused, too late", tooLate, ends(expired)),
		around(agent, "tombstone", "the cancel came first", cancelFirst, ends(cancelled)),
		around(agent, "cancel", "cancelled while it runs", stoppedMidway, ends(cancelled, unknown), withStubborn),
	} {
		all = append(all, group...)
	}
	return all
}

func ofAPIServer() (all []cell) {
	for _, group := range [][]cell{
		around(apiServer, "2", "the admission", once, ends(succeeded), while(manager)),
		around(apiServer, "8", "sent", once, ends(succeeded), while(gateway)),
		around(apiServer, "12", "the result", once, ends(succeeded), while(gateway)),
	} {
		all = append(all, group...)
	}
	return all
}

func ofNobody() []cell {
	return []cell{
		moment(nobody, faults.WhenBefore, "19", "nobody reported, and then the agent does", overtakenByResult, ends(expired), while(manager)),
		moment(nobody, faults.WhenBefore, "12", "the result, and then its time is over", overtakenByTime, ends(unknown), while(gateway)),
	}
}
