package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/rollcall-dev/rollcall/internal/agent"
	"github.com/rollcall-dev/rollcall/internal/agent/abilities"
	"github.com/rollcall-dev/rollcall/internal/agent/client"
	"github.com/rollcall-dev/rollcall/internal/agent/control"
	"github.com/rollcall-dev/rollcall/internal/agent/host"
	"github.com/rollcall-dev/rollcall/internal/agent/install"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// settings are what run and install have in common.
type settings struct {
	server, proxy, tokenFile string
	serverURL, proxyURL      *url.URL
}

func (s *settings) addFlags(f *pflag.FlagSet) {
	f.StringVar(&s.server, "server", os.Getenv("ROLLCALL_SERVER"), "the gateway, https://host:port (default: $ROLLCALL_SERVER)")
	f.StringVar(&s.proxy, "proxy", "", "HTTP CONNECT proxy, http://host:port, or direct (default: $ROLLCALL_PROXY, then HTTPS_PROXY and NO_PROXY)")
	f.StringVar(&s.tokenFile, "token-file", "", "file with the enrolment token, - for stdin; only needed until the machine has enrolled")
}

func stateDirFlag(f *pflag.FlagSet) *string {
	return f.String("state-dir", cmp.Or(os.Getenv("ROLLCALL_STATE_DIR"), install.StateDir), "where the agent keeps its identity and state (default: $ROLLCALL_STATE_DIR)")
}

func (s *settings) parse() (err error) {
	if s.server == "" {
		return misused("--server https://host:port is missing")
	}
	if s.serverURL, err = client.ParseServer(s.server); err != nil {
		return usageError{err}
	}
	if s.proxyURL, err = client.ParseProxy(cmp.Or(s.proxy, os.Getenv("ROLLCALL_PROXY")), s.serverURL); err != nil {
		return usageError{err}
	}
	return nil
}

// token reads the enrolment token. A file that is not there is no error: it is removed once it has served.
func (s *settings) token(in io.Reader) (identity.Token, error) {
	var b []byte
	var err error
	switch s.tokenFile {
	case "":
		return identity.Token{}, nil
	case "-":
		b, err = io.ReadAll(io.LimitReader(in, 4<<10))
	default:
		b, err = os.ReadFile(s.tokenFile)
		if errors.Is(err, fs.ErrNotExist) {
			return identity.Token{}, nil
		}
	}
	if err != nil {
		return identity.Token{}, fmt.Errorf("read the enrolment token: %w", err)
	}
	t, err := identity.ParseToken(string(b))
	if err != nil {
		return identity.Token{}, misused("--token-file %s: %w", s.tokenFile, err)
	}
	return t, nil
}

func run(ctx context.Context, args []string, s std) error {
	f := pflag.NewFlagSet("run", pflag.ContinueOnError)
	var set settings
	set.addFlags(f)
	path := stateDirFlag(f)
	timing := agent.DefaultTiming()
	timing.AddFlags(f)
	faults.AddFlags(f)
	level := f.String("log-level", "info", "debug, info or error")
	format := f.String("log-format", "json", "json or console")
	if err := parse(f, args, s); err != nil {
		return err
	}
	log, err := logger(*level, *format)
	if err != nil {
		return err
	}
	if err := set.parse(); err != nil {
		return err
	}
	if !wire.IsVersion(agent.Version) || !timing.Valid() {
		return misused("the version (%s) is a semantic version, and every duration is positive", agent.Version)
	}
	dir, err := state.Open(*path)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // the process ends
	config := agent.Config{
		Dir: dir, Host: host.This(ctx, dir.Path()), Server: set.serverURL, Proxy: set.proxyURL,
		Version: agent.Version, Platform: host.Platform, Executors: abilities.OfThisMachine(), Timing: timing, Log: log,
	}
	if !state.Has(dir.Path()) {
		if config.Token, err = set.token(s.in); err != nil {
			return err
		}
	}
	serve(ctx, config)
	return nil
}

// serve runs the engine, and answers cytool beside it.
func serve(ctx context.Context, config agent.Config) {
	notify := func(state string) { _, _ = daemon.SdNotify(false, state) } // without systemd there is nobody to notify
	var engine *agent.Engine
	config.Stepped = func() { notify(daemon.SdNotifyWatchdog + "\nSTATUS=" + headline(engine)) }
	engine = agent.New(config)

	var wg sync.WaitGroup
	if l, err := control.Listen(config.Dir.Path()); err != nil {
		config.Log.Error(err, "cytool cannot ask this agent; it works all the same")
	} else {
		wg.Go(func() { control.Serve(ctx, l, engine) })
	}
	notify(daemon.SdNotifyReady)
	engine.Run(ctx)
	notify(daemon.SdNotifyStopping)
	wg.Wait()
	config.Log.Info("agent stops")
}

// headline is the agent in a line, for systemctl status.
func headline(e *agent.Engine) string {
	s := e.Status()
	if len(s.Problems) > 0 {
		return s.State + ": " + s.Problems[0].Title
	}
	return s.State + "; last heartbeat " + s.Heartbeat.String()
}

func logger(level, format string) (logr.Logger, error) {
	parsed, err := zapcore.ParseLevel(level)
	if err != nil || format != "json" && format != "console" {
		return logr.Logger{}, misused("--log-level is debug, info or error, --log-format json or console")
	}
	config := zap.NewProductionConfig()
	config.Level = zap.NewAtomicLevelAt(parsed)
	config.Encoding = format
	config.EncoderConfig.EncodeTime = zapcore.RFC3339TimeEncoder
	config.DisableStacktrace, config.DisableCaller, config.Sampling = true, true, nil
	z, err := config.Build()
	if err != nil {
		return logr.Logger{}, fmt.Errorf("make the log: %w", err)
	}
	return zapr.NewLogger(z), nil
}
