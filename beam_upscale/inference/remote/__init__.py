"""The client of the upscaling API: calls for images of many threads, through one window.
Images with their tiles come in; pending images go out, whose inference a caller awaits. Nothing
here imports Beam or decides which image is called for.

    harness threads            the process's event loop
    run_inference -- calls --> Window: bounds, throttle, retries -- grpc.aio --> service
    caller of `result` <-- PendingImage <-- outcomes of the calls

`handlers.remote` runs the client under RunInference; `checking` tests the service before a run
begins.
"""
