// package: gooseai
// file: dashboard.proto

import * as dashboard_pb from "./dashboard_pb";
import {grpc} from "@improbable-eng/grpc-web";

type DashboardServiceGetMe = {
  readonly methodName: string;
  readonly service: typeof DashboardService;
  readonly requestStream: false;
  readonly responseStream: false;
  readonly requestType: typeof dashboard_pb.EmptyRequest;
  readonly responseType: typeof dashboard_pb.User;
};

type DashboardServiceGetOrganization = {
  readonly methodName: string;
  readonly service: typeof DashboardService;
  readonly requestStream: false;
  readonly responseStream: false;
  readonly requestType: typeof dashboard_pb.GetOrganizationRequest;
  readonly responseType: typeof dashboard_pb.Organization;
};

export class DashboardService {
  static readonly serviceName: string;
  static readonly GetMe: DashboardServiceGetMe;
  static readonly GetOrganization: DashboardServiceGetOrganization;
}

export type ServiceError = { message: string, code: number; metadata: grpc.Metadata }
export type Status = { details: string, code: number; metadata: grpc.Metadata }

interface UnaryResponse {
  cancel(): void;
}
interface ResponseStream<T> {
  cancel(): void;
  on(type: 'data', handler: (message: T) => void): ResponseStream<T>;
  on(type: 'end', handler: (status?: Status) => void): ResponseStream<T>;
  on(type: 'status', handler: (status: Status) => void): ResponseStream<T>;
}
interface RequestStream<T> {
  write(message: T): RequestStream<T>;
  end(): void;
  cancel(): void;
  on(type: 'end', handler: (status?: Status) => void): RequestStream<T>;
  on(type: 'status', handler: (status: Status) => void): RequestStream<T>;
}
interface BidirectionalStream<ReqT, ResT> {
  write(message: ReqT): BidirectionalStream<ReqT, ResT>;
  end(): void;
  cancel(): void;
  on(type: 'data', handler: (message: ResT) => void): BidirectionalStream<ReqT, ResT>;
  on(type: 'end', handler: (status?: Status) => void): BidirectionalStream<ReqT, ResT>;
  on(type: 'status', handler: (status: Status) => void): BidirectionalStream<ReqT, ResT>;
}

export class DashboardServiceClient {
  readonly serviceHost: string;

  constructor(serviceHost: string, options?: grpc.RpcOptions);
  getMe(
    requestMessage: dashboard_pb.EmptyRequest,
    metadata: grpc.Metadata,
    callback: (error: ServiceError|null, responseMessage: dashboard_pb.User|null) => void
  ): UnaryResponse;
  getMe(
    requestMessage: dashboard_pb.EmptyRequest,
    callback: (error: ServiceError|null, responseMessage: dashboard_pb.User|null) => void
  ): UnaryResponse;
  getOrganization(
    requestMessage: dashboard_pb.GetOrganizationRequest,
    metadata: grpc.Metadata,
    callback: (error: ServiceError|null, responseMessage: dashboard_pb.Organization|null) => void
  ): UnaryResponse;
  getOrganization(
    requestMessage: dashboard_pb.GetOrganizationRequest,
    callback: (error: ServiceError|null, responseMessage: dashboard_pb.Organization|null) => void
  ): UnaryResponse;
}

