// Command fleetsim runs many agents in one process, against a real server: each has its own key, certificate, state and timers and speaks
// the real protocol, by the engine of rollcall-agent. Only the facts of their machines are made up.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/rollcall-dev/rollcall/internal/agent"
	"github.com/rollcall-dev/rollcall/internal/agent/client"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func main() {
	debug.SetGCPercent(25) // a third less memory for each agent, for some CPU; a fleet rests most of the time
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	if errors.Is(err, pflag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleetsim:", err)
		os.Exit(2)
	}
	sum, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleetsim:", err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(sum); err != nil {
		os.Exit(1)
	}
}

func parse(args []string) (*options, error) {
	o := &options{timing: agent.DefaultTiming(), log: logr.Discard(), progress: os.Stderr}
	f := pflag.NewFlagSet("fleetsim", pflag.ContinueOnError)
	server := f.String("server", "", "the gateway, https://host:port")
	proxy := f.String("proxy", "direct", "HTTP CONNECT proxy, http://host:port, or direct")
	tokenFile := f.String("token-file", "", "file with the enrolment token; only needed until all have enrolled")
	verbose := f.Bool("verbose", false, "log what each agent does")
	websocket := f.Bool("websocket", true, "keep websockets, as the policy says; false: heartbeats over HTTPS only")
	f.BoolVar(&o.terminate, "terminate", false, "say that they can TerminateProcess, end made-up processes, and say that they were made up")
	f.IntVar(&o.count, "count", 50, "how many agents")
	f.StringVar(&o.stateDir, "state-dir", "", "where they keep their state, a directory each: a restart goes on")
	f.StringVar(&o.prefix, "prefix", "agent", "their names are prefix-01, prefix-02 ...")
	f.StringVar(&o.version, "version", agent.Version, "version that they report")
	f.BoolVar(&o.odd, "odd", false, "prefix-02 is version "+oldVersion+", prefix-03 has a disk that damages all content but the first, prefix-04 stops for good, prefix-05 is cloned")
	f.DurationVar(&o.oddAfter, "odd-after", 10*time.Second, "how long prefix-04 is online before it stops")
	f.StringVar(&o.enrolledFile, "enrolled-file", "", "file to keep the number of enrolled agents in")
	f.Float64Var(&o.startRate, "start-rate", 200, "agents to start per second")
	f.IntVar(&o.enrollAtOnce, "enroll-at-once", 100, "agents that enrol at once; one that takes longer than 30 s does not count any more")
	o.timing.AddFlags(f)
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.noWebsocket = !*websocket
	if *verbose {
		z, err := zap.NewProduction()
		if err != nil {
			return nil, err
		}
		o.log = zapr.NewLogger(z)
	}
	var err error
	switch {
	case *server == "" || o.stateDir == "" || f.NArg() > 0:
		return nil, errors.New("--server and --state-dir are needed, and nothing but flags")
	case o.count < 1 || o.count > 100_000 || o.startRate <= 0 || o.enrollAtOnce < 1 || !o.timing.Valid() || !wire.IsVersion(o.version):
		return nil, errors.New("--count is 1 to 100000, --start-rate, --enroll-at-once and all durations are positive, --version is a semantic version")
	}
	if o.server, err = client.ParseServer(*server); err != nil {
		return nil, err
	}
	if o.proxy, err = client.ParseProxy(*proxy, o.server); err != nil {
		return nil, err
	}
	if *tokenFile == "" {
		return o, nil
	}
	b, err := os.ReadFile(*tokenFile)
	if err != nil {
		return nil, fmt.Errorf("read the enrolment token: %w", err)
	}
	if o.token, err = identity.ParseToken(strings.TrimSpace(string(b))); err != nil {
		return nil, err
	}
	return o, nil
}
