package controlplane

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	redrawEvery = 250 * time.Millisecond
	proveLife   = 5 * time.Second
)

// progress shows the steps of a build, one line each: rewritten in place on a
// terminal; elsewhere a line per tenth, and a dot whenever nothing else was
// written for five seconds.
type progress struct {
	w        io.Writer
	terminal bool
	start    time.Time

	mu        sync.Mutex
	name      string // of the step in hand; empty between steps
	detail    string
	tenth     int // of the step, as last written; -1 before any
	openLine  bool
	lastWrite time.Time

	stop chan struct{}
	done chan struct{}
}

// newProgress starts the clock. Close ends it.
func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return startProgress(w, ok && term.IsTerminal(int(f.Fd())))
}

func startProgress(w io.Writer, terminal bool) *progress {
	now := time.Now()
	p := &progress{w: w, terminal: terminal, start: now, lastWrite: now, stop: make(chan struct{}), done: make(chan struct{})}
	go p.tick()
	return p
}

func (p *progress) tick() {
	defer close(p.done)
	every := proveLife / 5
	if p.terminal {
		every = redrawEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			p.mu.Lock()
			switch {
			case p.name == "":
			case p.terminal:
				p.write("\r\x1b[K" + p.line())
			case time.Since(p.lastWrite) < proveLife:
			case p.openLine:
				p.write(".")
			default:
				p.write(p.line())
			}
			p.mu.Unlock()
		}
	}
}

// Say writes a line of its own.
func (p *progress) Say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLine()
	p.write(fmt.Sprintf(format, args...))
	p.endLine()
}

// Step begins a step.
func (p *progress) Step(name, detail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.name, p.detail, p.tenth = name, detail, -1
	if p.terminal {
		p.show()
	}
}

// Count says how far the step is. A total of 0 means that it is not known.
func (p *progress) Count(detail string, done, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.detail = detail
	if total == 0 || p.terminal {
		return // the ticker shows it
	}
	if tenth := done * 10 / total; tenth > p.tenth {
		p.tenth = tenth
		p.show()
	}
}

// End closes the step with its last line.
func (p *progress) End(detail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.detail = detail
	p.show()
	p.endLine()
	p.name = ""
}

// Close stops the clock and leaves the cursor at the start of a line.
func (p *progress) Close() {
	close(p.stop)
	<-p.done
	p.endLine()
}

func (p *progress) show() {
	if p.terminal {
		p.write("\r\x1b[K" + p.line())
		return
	}
	p.endLine()
	p.write(p.line())
}

func (p *progress) endLine() {
	if p.openLine {
		p.write("\n")
		p.openLine = false
	}
}

// write drops errors: a build goes on when nobody reads its progress.
func (p *progress) write(s string) {
	_, _ = io.WriteString(p.w, s)
	p.openLine = true
	p.lastWrite = time.Now()
}

func (p *progress) line() string {
	return fmt.Sprintf("  %-24s %s   %s", p.name, p.detail, time.Since(p.start).Round(time.Second))
}

func packages(done, total int) string {
	return thousands(done) + " of " + thousands(total) + " packages"
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
