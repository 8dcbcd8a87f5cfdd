package terminate

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rollcall-dev/rollcall/internal/agent/perform"
)

// Reasons of this type of action.
const (
	// ReasonNoSuchProcess: none is there that was meant.
	ReasonNoSuchProcess = "NoSuchProcess"
	// ReasonNotEnded: KILL did not end it either.
	ReasonNotEnded = "NotEnded"
)

// maxListed is how many processes a message lists by their PIDs.
const maxListed = 8

// nothing is the result of a search that found nothing to end.
func (f *found) nothing(w wanted) perform.Result {
	switch {
	case len(f.others) > 0:
		return perform.Failed(perform.ReasonNotPermitted, "%s", leftAlone(f.others))
	case w.pid != 0 && f.near != nil:
		return perform.Failed(ReasonNoSuchProcess, "%s", f.near)
	case f.unseen > 0:
		return perform.Failed(ReasonNoSuchProcess, "no process %s; %d may not be looked at by the agent, user %d", w, f.unseen, os.Geteuid())
	default:
		return perform.Failed(ReasonNoSuchProcess, "no process %s", w)
	}
}

// leftAlone names processes that were.
func leftAlone(all []spared) string {
	s := fmt.Sprintf("%s was left alone: %s", all[0].seen, all[0].why)
	if more := len(all) - 1; more > 0 {
		s += fmt.Sprintf("; and %d more", more)
	}
	return s
}

// result says what was ended, and what was not.
func (d *deed) result(ctx context.Context) perform.Result {
	var ended, left []*target
	alone := d.spared
	for _, t := range d.family {
		switch {
		case t.ended && t.signal != 0:
			ended = append(ended, t)
		case t.refused:
			alone = append(alone, spared{t.seen, foreign(t.pid)})
		case !t.ended:
			left = append(left, t)
		}
	}
	r := d.verdict(ctx, ended, left, alone)
	for _, t := range ended {
		r.Processes = append(r.Processes, d.x.instance(t))
	}
	return r
}

func (d *deed) verdict(ctx context.Context, ended, left []*target, alone []spared) perform.Result {
	done := endedWords(ended)
	switch {
	case len(left) > 0 && ctx.Err() != nil:
		return perform.Cut(ctx, "%s; %s", done, stillThere(left))
	case len(left) > 0:
		return perform.Failed(ReasonNotEnded, "%s, even after KILL; %s", stillThere(left), done)
	case len(alone) > 0:
		return perform.Failed(perform.ReasonNotPermitted, "%s; %s", leftAlone(alone), done)
	case len(ended) == 0:
		return perform.Failed(ReasonNoSuchProcess, "%s ended by itself", d.family[0].seen)
	default:
		return perform.Done("%s", done)
	}
}

func stillThere(left []*target) string {
	s := fmt.Sprintf("%s is still there", left[0].seen)
	if more := len(left) - 1; more > 0 {
		s = fmt.Sprintf("%s and %d more are still there", left[0].seen, more)
	}
	return s
}

// endedWords says what was ended, how, and how long that took.
func endedWords(ended []*target) string {
	var took time.Duration
	var pids []string
	killed := 0
	for i, t := range ended {
		took = max(took, t.took)
		if t.signal == unix.SIGKILL {
			killed++
		}
		if i < maxListed {
			pids = append(pids, fmt.Sprint(t.pid))
		}
	}
	ms := took.Milliseconds()
	switch {
	case len(ended) == 0:
		return "ended none"
	case len(ended) == 1 && killed == 1:
		return fmt.Sprintf("ended %s with KILL in %d ms", ended[0].seen, ms)
	case len(ended) == 1:
		return fmt.Sprintf("ended %s with TERM in %d ms", ended[0].seen, ms)
	}
	how := "with TERM"
	if killed > 0 {
		how = fmt.Sprintf("%d of them with KILL", killed)
	}
	if len(ended) > maxListed {
		pids = append(pids, "…")
	}
	return fmt.Sprintf("ended %d processes (%s), %s, in %d ms: pids %s", len(ended), shorten(ended[0].exe), how, ms, strings.Join(pids, ", "))
}
