package status

import (
	"fmt"
	"io"
	"strconv"
)

// Write prints the websocket as `cytool websocket` does.
func (c Channel) Write(w io.Writer) error {
	l := &lines{w: w}
	if !c.Enrolled {
		l.add("Websocket", "%s: this machine is not enrolled", c.State)
		writeProblems(l, c.Problems)
		return l.err
	}
	switch c.State {
	case Connected, Connecting:
		c.connection(l)
	default:
		c.absence(l)
	}
	writeProblems(l, c.Problems)
	return l.err
}

func (c Channel) connection(l *lines) {
	l.add("Websocket", "%s", c.line(""))
	l.add("Server", "%s%s", c.URL, c.Server.gateway())
	if c.State == Connected {
		l.add("Transport", "TLS 1.2, %s, mutual; %s; %s", openSSL(c.Server.CipherSuite), c.Subprotocol, c.Server.proxy())
		if c.RoundTripMilliseconds != nil {
			l.add("Round trip", "%s ms, measured %s ago", milliseconds(*c.RoundTripMilliseconds), span(*c.RoundTripSecondsAgo))
		}
		if c.Error != "" {
			l.prose("Does not last", c.Error+": so ended the one before")
		}
	}
	l.add("Last heartbeat", "%s", c.Heartbeat)
}

func (c Channel) absence(l *lines) {
	next := "with the next heartbeat"
	if s := c.Heartbeat.NextInSeconds; s != nil {
		next += ", in " + span(*s)
	}
	if c.State == Unsupported {
		l.add("Websocket", "%s", c.line(c.Error))
		l.add("Meanwhile", "actions arrive %s", next)
	} else {
		l.add("Websocket", "%s", c.line("actions arrive "+next))
	}
	if detail := c.Detail; detail != "" {
		l.prose("Last error", detail)
	} else if c.Error != "" && c.State != Unsupported {
		l.prose("Last error", c.Error)
	}
	switch {
	case c.NextAttemptInSeconds != nil:
		l.add("Next attempt", "in %s (the %s)", span(*c.NextAttemptInSeconds), ordinal(c.Attempt))
	case c.Attempt > 0:
		l.add("Next attempt", "under way (the %s)", ordinal(c.Attempt))
	}
	l.add("Last heartbeat", "%s", c.Heartbeat.last())
}

// line is the state, and what is to be said of it where there is no websocket.
func (w Websocket) line(why string) string {
	s := w.State
	switch {
	case w.State == Disabled:
		s += " by the policy"
	case w.State == Unsupported: // what follows has a colon itself
		return s + "; " + why
	case w.ForSeconds != nil:
		s += " for " + span(*w.ForSeconds)
	}
	if why == "" || w.State == Connected || w.State == Connecting {
		return s
	}
	return s + ": " + why
}

func milliseconds(ms float64) string {
	if ms < 10 {
		return strconv.FormatFloat(ms, 'f', 1, 64)
	}
	return strconv.FormatFloat(ms, 'f', 0, 64)
}

// ordinal is a number as people count.
func ordinal(n int) string {
	suffix := "th"
	if n/10%10 != 1 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprint(n, suffix)
}
