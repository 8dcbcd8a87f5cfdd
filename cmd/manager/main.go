// Command rollcall-manager decides and signs: it enrols machines, says who is online and which policy applies, and holds the fleet's keys.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
)

// patience after SIGTERM: the gateway beside us drains its sessions in what is left of the Pod's grace period.
const patience = 1900 * time.Millisecond

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		if err == pflag.ErrHelp { //nolint:errorlint // it is returned as it is
			os.Exit(0)
		}
		fmt.Fprintln(os.Stderr, "rollcall-manager:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	logger := newLogger(o)
	ctrl.SetLogger(logger)
	klog.SetLogger(logger)
	// Whatever still hangs then, on a dead API server for instance, may not eat the gateway's time.
	context.AfterFunc(ctx, func() {
		time.AfterFunc(patience, func() {
			logger.Info("Stopped without waiting any longer.")
			os.Exit(0)
		})
	})
	if err := run(ctx, o, logger); err != nil && ctx.Err() == nil {
		logger.Error(err, "The manager ends.")
		os.Exit(1)
	}
}

func newLogger(o *options) logr.Logger {
	opts := []zap.Opts{zap.Level(o.log.Level()), zap.WriteTo(os.Stderr), zap.StacktraceLevel(zapcore.PanicLevel), zap.RawZapOpts()}
	if o.log.Console() {
		opts = append(opts, zap.ConsoleEncoder(func(c *zapcore.EncoderConfig) { c.EncodeTime = zapcore.ISO8601TimeEncoder }))
	} else {
		opts = append(opts, zap.JSONEncoder(func(c *zapcore.EncoderConfig) { c.EncodeTime = zapcore.ISO8601TimeEncoder }))
	}
	return zap.New(opts...)
}
