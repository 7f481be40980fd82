"""The client of the upscaling API: images of many threads, calls of one window.

    harness threads            the process's event loop
    run_inference -- calls --> Window: bounds, throttle, retries -- grpc.aio --> service
    whoever takes a result <-- PendingImage <-- outcomes of the calls

`RemoteHandler` is what stands under RunInference; `check` is what a run asks before it begins.
"""
