package status

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rollcall-dev/rollcall/internal/agent/problem"
)

// width of a line of prose beside the labels.
const width = 88

// lines are labelled lines as cytool prints them; an error of the writer is kept.
type lines struct {
	w   io.Writer
	err error
}

func (l *lines) add(label, format string, args ...any) {
	if l.err == nil {
		line := fmt.Sprintf("%-16s %s", label, fmt.Sprintf(format, args...))
		_, l.err = fmt.Fprintln(l.w, strings.TrimRight(line, " "))
	}
}

// prose adds a paragraph, broken between words.
func (l *lines) prose(label, text string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			l.add(label, "%s", line)
			label, line = "", ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	l.add(label, "%s", line)
}

// Write prints the status as `cytool status` does.
func (s Status) Write(w io.Writer) error {
	l := &lines{w: w}
	l.add("State", "%s", s.State)
	if e := s.Endpoint; e != nil {
		l.add("Endpoint", "%s%s", e.Identity, where(e))
		l.add("Fleet", "%s", e.Fleet)
	} else {
		l.add("Endpoint", "none: this machine is not enrolled")
	}
	l.add("Server", "%s%s", s.Server.URL, s.Server.details())
	if s.Endpoint != nil {
		l.add("Websocket", "%s", s.Websocket.line(s.Websocket.Error))
	}
	if t := s.Trust; t != nil {
		l.add("Trust", "version %d, issued %s", t.Version, t.IssuedAt.UTC().Format(time.DateTime+"Z"))
	} else {
		l.add("Trust", "none yet")
	}
	s.certificate(l)
	s.policy(l)
	if s.Endpoint != nil {
		s.Content.write(l)
	}
	l.add("Last heartbeat", "%s", s.Heartbeat)
	s.clock(l)
	if open := s.Actions.String(); open != "" {
		l.add("Actions", "%s", open)
	}
	if s.Orders.Rejected > 0 {
		l.add("Refused orders", "%d since the start, the last for %s", s.Orders.Rejected, s.Orders.LastRejection)
	}
	l.add("Agent", "%s, %s; start %d; %s", s.Agent.Version, s.Agent.Platform, s.Agent.Epoch, s.Agent.StateDir)
	for _, d := range s.Damaged {
		l.prose("Damaged file", d)
	}
	writeProblems(l, s.Problems)
	return l.err
}

func writeProblems(l *lines, problems []Problem) {
	for _, p := range problems {
		l.add("", "")
		l.add("Problem", "%s (%s)", p.Title, p.Name)
		l.prose("What it means", p.Meaning)
		if p.Detail != "" {
			l.prose("What was said", p.Detail)
		}
		if p.Advice != "" {
			l.prose("What to do", p.Advice)
		}
		if p.RetryInSeconds != nil {
			l.add("Next attempt", "in %s", span(*p.RetryInSeconds))
		}
	}
}

func (s Status) certificate(l *lines) {
	c := s.Certificate
	switch {
	case c == nil:
		l.add("Certificate", "none yet")
	case c.ExpiresInSeconds < 0:
		l.add("Certificate", "expired %s ago, on %s%s", span(-c.ExpiresInSeconds), c.NotAfter.UTC().Format(time.DateTime+"Z"), c.renewal())
	default:
		l.add("Certificate", "expires in %s, on %s%s", span(c.ExpiresInSeconds), c.NotAfter.UTC().Format(time.DateTime+"Z"), c.renewal())
	}
}

func (c *Certificate) renewal() string {
	switch {
	case c.Renewing:
		return "; being renewed"
	case c.RenewsInSeconds != nil:
		return "; renewal in " + span(*c.RenewsInSeconds)
	default:
		return ""
	}
}

func (s Status) policy(l *lines) {
	every := span(s.Policy.HeartbeatIntervalSeconds)
	if s.Policy.ID == "" {
		l.add("Policy", "none assigned: built-in defaults, a heartbeat every %s", every)
		return
	}
	l.add("Policy", "%s, revision %d: a heartbeat every %s", s.Policy.ID, s.Policy.Revision, every)
}

func (s Status) clock(l *lines) {
	if !s.Clock.Known {
		l.add("Clock", "not compared yet: no beacon since the agent started")
		return
	}
	skew := time.Duration(s.Clock.SkewSeconds) * time.Second
	text := "as the fleet's"
	if s.Clock.SkewSeconds != 0 {
		text = problem.Ahead(skew) + " the fleet's"
	}
	l.add("Clock", "%s; last beacon %s old", text, span(s.Clock.BeaconAgeSeconds))
}

// String is the line of the last heartbeat.
func (h Heartbeat) String() string {
	if h.NextInSeconds != nil {
		return h.last() + "; next in " + span(*h.NextInSeconds)
	}
	return h.last() + "; none is planned"
}

func (h Heartbeat) last() string {
	if h.LastSecondsAgo == nil {
		return "none yet"
	}
	ago := span(*h.LastSecondsAgo) + " ago"
	if h.Over == OverHTTPS {
		ago += " over HTTPS"
	}
	switch {
	case h.Accepted:
		return ago + ", accepted"
	case h.AcceptedSecondsAgo != nil:
		return ago + ", failed; the last accepted one " + span(*h.AcceptedSecondsAgo) + " ago"
	default:
		return ago + ", failed"
	}
}

func where(e *Endpoint) string {
	if e.Namespace == "" {
		return ""
	}
	return "   (namespace " + e.Namespace + ")"
}

func (s Server) details() string { return s.gateway() + "; " + s.proxy() }

func (s Server) gateway() string {
	if s.Gateway == "" {
		return ""
	}
	return "   (gateway " + s.Gateway + ")"
}

func (s Server) proxy() string {
	if s.Proxy == "" {
		return "no proxy"
	}
	return "through the proxy " + s.Proxy
}

// openSSL is a cipher suite by the name that people know it by.
func openSSL(suite string) string {
	return strings.NewReplacer("TLS_", "", "_WITH", "", "AES_128", "AES128", "AES_256", "AES256", "_", "-").Replace(suite)
}

func span(seconds int64) string { return problem.Span(time.Duration(seconds) * time.Second) }
