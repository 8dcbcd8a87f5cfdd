package agent

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rollcall-dev/rollcall/internal/agent/client"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
	"github.com/rollcall-dev/rollcall/internal/transport"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// why says how an attempt or a session ended, by the error that it ended with.
func (e *Engine) why(err error) session.End {
	if refused, ok := errors.AsType[*transport.UpgradeError](err); ok {
		return e.refused(refused)
	}
	if unanswered, ok := errors.AsType[*client.NotUpgraded](err); ok {
		return session.End{Kind: session.Refused, Phrase: unanswered.Error()}
	}
	if closed, ok := errors.AsType[*transport.CloseError](err); ok && !errors.Is(err, session.ErrMalformed) {
		return e.closed(closed)
	}
	if p, ok := errors.AsType[*wire.Problem](err); ok {
		return unreachable(p)
	}
	return session.End{Kind: session.Lost, Phrase: err.Error()}
}

// refused is an answer to the upgrade that was another. One without a problem of the protocol may be anybody's.
func (e *Engine) refused(err *transport.UpgradeError) session.End {
	end := session.End{Kind: session.Refused, Phrase: err.Error(), Problem: err.Problem}
	switch {
	case end.Problem == nil:
		end.Problem = &wire.Problem{Name: problem.ReplyMalformed, RetryAfter: err.RetryAfter}
		end.Detail = strings.TrimSpace(fmt.Sprintf("the server, or a proxy on the way, answered the upgrade with %d %s", err.Status, http.StatusText(err.Status)))
	case end.Unsupported():
		end.Phrase = e.tooOld(err.Problem)
	}
	return end
}

// closed is a close frame of the server's, or the want of one.
func (e *Engine) closed(err *transport.CloseError) session.End {
	switch {
	case err.Local: // against a server that does not keep to the rules
		return session.End{Kind: session.Lost, Phrase: fmt.Sprintf("the server broke the rules of websockets: %v", err.Err)}
	case err.Code == wire.CloseAbnormal:
		return session.End{Kind: session.Lost, Phrase: "the connection was cut"}
	}
	end := session.End{Kind: session.Closed, Problem: err.Problem()}
	end.Phrase = fmt.Sprintf("the server closed it with %d (%s)", err.Code, end.Problem.Name)
	if end.Unsupported() {
		end.Phrase = e.tooOld(end.Problem)
	}
	return end
}

// tooOld is said, in the same words, by kubectl and cytool.
func (e *Engine) tooOld(p *wire.Problem) string {
	if p.Name == wire.AgentVersionUnsupported {
		minimum := p.Minimum
		if minimum == "" {
			minimum = wire.MinSessionVersion
		}
		return fmt.Sprintf("agent %s: the websocket needs %s or later", e.Version, minimum)
	}
	return fmt.Sprintf("the server has no websocket for agent %s (%s)", e.Version, p.Name)
}

// unreachable is a dial that came to no connection. Its problem's sentence is made part of one.
func unreachable(p *wire.Problem) session.End {
	phrase := strings.TrimSuffix(p.Detail, ".")
	if first, size := utf8.DecodeRuneInString(phrase); unicode.IsUpper(first) {
		phrase = string(unicode.ToLower(first)) + phrase[size:]
	}
	return session.End{Kind: session.Unreachable, Problem: p, Phrase: phrase}
}
