// Command rollcall-gateway is what agents talk to. It is a courier: it holds no secret but its own serving key, in memory, and writes no more
// than what it has seen.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
)

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		if err == pflag.ErrHelp { //nolint:errorlint // it is returned as it is
			os.Exit(0)
		}
		fmt.Fprintln(os.Stderr, "rollcall-gateway:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	logger := newLogger(o)
	klog.SetLogger(logger)
	if err := run(ctx, o, logger); err != nil {
		logger.Error(err, "The gateway ends.")
		os.Exit(1)
	}
}

func newLogger(o *options) logr.Logger {
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.ISO8601TimeEncoder
	encoder := zapcore.NewJSONEncoder(config)
	if o.log.Console() {
		encoder = zapcore.NewConsoleEncoder(config)
	}
	return zapr.NewLogger(zap.New(zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), o.log.Level())))
}
