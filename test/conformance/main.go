package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// Exit codes.
const (
	conforms = iota
	fails
	misused
)

func run(args []string, stdin io.Reader, out, errs io.Writer) int {
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	flags.SetOutput(errs)
	server := flags.String("server", "", "the gateway, https://host:port")
	tokenFile := flags.String("token-file", "", `file with an enrolment token; "-" for standard input`)
	hostname := flags.String("hostname", "conformance-"+randomHex(3), "name to propose for the endpoint")
	needPolicy := flags.Bool("policy", false, "demand that a policy is assigned, and not only the defaults")
	actions := flags.Bool("actions", false, `try actions, too: somebody has to do within a minute what each line that begins with "  wants" says`)
	pace := flags.Duration("pace", 5*time.Second, "longest time between two heartbeats, whatever the policy says")
	timeout := flags.Duration("timeout", 10*time.Minute, "for everything together")
	if err := flags.Parse(args); err != nil {
		return misused
	}
	a, err := prepare(*server, *tokenFile, *hostname, stdin)
	if err != nil {
		_, _ = fmt.Fprintln(errs, "conformance:", err)
		return misused
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	s := &suite{agent: a, out: out, needPolicy: *needPolicy, actions: *actions, pace: *pace}
	if err := s.run(ctx); err != nil {
		s.check("go on to the end", err)
	}
	if s.failed > 0 {
		s.say("FAIL: %d of %d things are not as the document says.", s.failed, s.tried)
		return fails
	}
	s.say("PASS: all %d things are as the document says.", s.tried)
	return conforms
}

func prepare(server, tokenFile, hostname string, stdin io.Reader) (*agent, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Port() == "" {
		return nil, errors.New("-server must be https://host:port")
	}
	var text []byte
	switch tokenFile {
	case "":
		return nil, errors.New("-token-file is missing")
	case "-":
		text, err = io.ReadAll(io.LimitReader(stdin, 1<<10))
	default:
		text, err = os.ReadFile(tokenFile)
	}
	if err != nil {
		return nil, err
	}
	t, err := parseToken(string(text))
	return &agent{server: u, token: t, hostname: hostname, journal: journal{id: randomHex(16)}}, err
}

// suite tries one thing after the other and says how it went.
type suite struct {
	*agent
	out        io.Writer
	needPolicy bool
	actions    bool
	pace       time.Duration

	tried, failed int
}

func (s *suite) run(ctx context.Context) error {
	for _, part := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"Trust", s.tryTrust},
		{"TLS", s.tryTLS},
		{"Requests", s.tryRequests},
		{"Enrolment", s.tryEnrolment},
		{"Heartbeats", s.tryHeartbeats},
		{"Heartbeats that are refused", s.tryBadHeartbeats},
		{"Artifacts", s.tryArtifacts},
		{"Session", s.trySession},
		{"Sessions, one after the other", s.trySessions},
		{"Sessions that are refused", s.tryBadUpgrades},
		{"Sessions that are closed", s.tryBadSessions},
		{"Updates of actions that are refused", s.tryBadUpdates},
		{"Actions", s.tryActions},
		{"Renewal", s.tryRenewal},
		{"Restarts and clones", s.tryClones},
	} {
		s.say("%s", part.title)
		if err := part.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *suite) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.out, format+"\n", args...) // nobody else to tell
}

// check takes note of one thing.
func (s *suite) check(what string, err error) {
	s.tried++
	if err == nil {
		s.say("  ok    %s", what)
		return
	}
	s.failed++
	s.say("  FAIL  %s: %v", what, err)
}

// must is check for what everything after depends on.
func (s *suite) must(what string, err error) error {
	s.check(what, err)
	if err != nil {
		return errors.New("nothing else can be tried")
	}
	return nil
}
