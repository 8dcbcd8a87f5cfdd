module github.com/rollcall-dev/rollcall/test/conformance

go 1.26.0
