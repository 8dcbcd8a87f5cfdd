package status

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// States of an action, as cytool names them.
const (
	// Waiting to begin: on the disk, and nothing was done yet.
	Waiting = "waiting"
	// Running: it has begun.
	Running = "running"
	// Ended: the server does not have the result yet.
	Ended = "ended"
	// Reported: it does.
	Reported = "reported"
	// Lost: the record was damaged.
	Lost = "lost"
)

// Open counts the actions whose end the server does not have yet.
type Open struct {
	Waiting int `json:"waiting"`
	Running int `json:"running"`
	Ended   int `json:"ended"`
	// Full: no more are taken until some are reported.
	Full bool `json:"full,omitempty"`
}

// Actions is what `cytool actions` shows: the open ones, oldest first, then those that were reported, newest first.
type Actions struct {
	Actions []Action `json:"actions"`
	// Omitted are older ones that were reported.
	Omitted int `json:"omitted,omitempty"`
}

// Action is one.
type Action struct {
	UID  string `json:"uid"`
	Type string `json:"type,omitempty"`
	// State is waiting, running, ended, reported or lost.
	State string `json:"state"`
	// SecondsAgo is when it came to that state.
	SecondsAgo int64 `json:"secondsAgo"`
	// By is who asked for it, and Why, in the words of that person.
	By  string `json:"requestedBy,omitempty"`
	Why string `json:"requestReason,omitempty"`
	// Outcome, Reason and Message are of its result.
	Outcome string `json:"outcome,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// Write prints them as `cytool actions` does.
func (a Actions) Write(w io.Writer) error {
	if len(a.Actions) == 0 {
		_, err := io.WriteString(w, "no actions: none has come, and none is remembered\n")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(columns ...string) { _, _ = io.WriteString(t, strings.Join(columns, "\t")+"\n") } // Flush says what failed
	row("UID", "TYPE", "STATE", "SINCE", "BY", "RESULT")
	for _, x := range a.Actions {
		row(x.UID, orDash(x.Type), x.State, span(x.SecondsAgo), orDash(x.By), x.result())
	}
	if err := t.Flush(); err != nil || a.Omitted == 0 {
		return err
	}
	l := &lines{w: w}
	l.add("", "")
	l.add("Older", "%d more, all of them reported", a.Omitted)
	return l.err
}

func (a Action) result() string {
	switch {
	case a.Outcome == "":
		return "-"
	case a.Reason == a.Outcome || a.Reason == "Done":
		return strings.TrimSuffix(a.Outcome+": "+a.Message, ": ")
	default:
		return strings.TrimSuffix(a.Outcome+" ("+a.Reason+"): "+a.Message, ": ")
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// String counts them in words, "" if there are none.
func (o Open) String() string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{o.Running, "running"}, {o.Waiting, "waiting"}, {o.Ended, "ended and not yet acknowledged by the server"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprint(p.n, " ", p.what))
		}
	}
	s := strings.Join(parts, ", ")
	if o.Full {
		s += "; no more are taken until some are acknowledged"
	}
	return s
}
