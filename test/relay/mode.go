package relay

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Mode is what a relay does with what it carries. The zero Mode passes everything through.
type Mode struct {
	does action
	// after is how long a websocket lives under cut.
	after time.Duration
	// wide makes it swallow the gateway's pongs instead of the agent's pings, and half-open hold new connections too.
	wide bool
}

type action uint8

const (
	passes action = iota
	blocks
	cuts
	swallows
	holds
)

// maxCut bounds cut: beyond a day it is no fault any more.
const maxCut = 24 * time.Hour

// modes by their names; cut is told apart by its "=".
var modes = map[string]Mode{
	"pass":          {},
	"block":         {does: blocks},
	"swallow":       {does: swallows},
	"swallow=pings": {does: swallows},
	"swallow=pongs": {does: swallows, wide: true},
	"half-open":     {does: holds},
	"half-open=all": {does: holds, wide: true},
}

// ParseMode reads a mode: pass, block, cut=<seconds, or a duration such as 1m30s>, swallow[=pings|pongs] or half-open[=all].
func ParseMode(s string) (Mode, error) {
	if m, ok := modes[s]; ok {
		return m, nil
	}
	if n, ok := strings.CutPrefix(s, "cut="); ok {
		if _, err := strconv.Atoi(n); err == nil {
			n += "s"
		}
		if d, err := time.ParseDuration(n); err == nil && d > 0 && d <= maxCut {
			return Mode{does: cuts, after: d}, nil
		}
	}
	return Mode{}, fmt.Errorf("%q is no mode: it is pass, block, cut=<seconds up to %d>, swallow[=pings|pongs] or half-open[=all]", s, int(maxCut.Seconds()))
}

// String is what ParseMode reads.
func (m Mode) String() string {
	switch {
	case m.does == blocks:
		return "block"
	case m.does == cuts:
		return "cut=" + m.after.String()
	case m.does == swallows && m.wide:
		return "swallow=pongs"
	case m.does == swallows:
		return "swallow=pings"
	case m.does == holds && m.wide:
		return "half-open=all"
	case m.does == holds:
		return "half-open"
	default:
		return "pass"
	}
}

// Sentence says for people what the relay does in this mode.
func (m Mode) Sentence() string {
	const ends = "a relay that ends TLS now stands between agent and gateway and "
	switch {
	case m.does == blocks:
		return ends + "answers 403 to every upgrade, as some proxies do"
	case m.does == cuts:
		return ends + "cuts each websocket " + m.after.String() + " after it came up"
	case m.does == swallows && m.wide:
		return ends + "swallows the gateway's pongs; all else passes"
	case m.does == swallows:
		return ends + "swallows the agent's pings; all else passes"
	case m.does == holds && m.wide:
		return "the relay between agent and gateway forwards nothing any more, and closes nothing"
	case m.does == holds:
		return "the relay between agent and gateway forwards nothing any more on the connections that were up, and does not close them; new ones work"
	default:
		return "the relay between agent and gateway passes everything through again, TLS untouched; agents try their websocket again within their backoff"
	}
}

// endsTLS tells whether the relay has to look into what it carries.
func (m Mode) endsTLS() bool { return m.does == blocks || m.does == cuts || m.does == swallows }
