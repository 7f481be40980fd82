// package: tensors
// file: tensors.proto

import * as jspb from "google-protobuf";

export class Tensor extends jspb.Message {
  getDtype(): DtypeMap[keyof DtypeMap];
  setDtype(value: DtypeMap[keyof DtypeMap]): void;

  clearShapeList(): void;
  getShapeList(): Array<number>;
  setShapeList(value: Array<number>): void;
  addShape(value: number, index?: number): number;

  getData(): Uint8Array | string;
  getData_asU8(): Uint8Array;
  getData_asB64(): string;
  setData(value: Uint8Array | string): void;

  serializeBinary(): Uint8Array;
  toObject(includeInstance?: boolean): Tensor.AsObject;
  static toObject(includeInstance: boolean, msg: Tensor): Tensor.AsObject;
  static extensions: {[key: number]: jspb.ExtensionFieldInfo<jspb.Message>};
  static extensionsBinary: {[key: number]: jspb.ExtensionFieldBinaryInfo<jspb.Message>};
  static serializeBinaryToWriter(message: Tensor, writer: jspb.BinaryWriter): void;
  static deserializeBinary(bytes: Uint8Array): Tensor;
  static deserializeBinaryFromReader(message: Tensor, reader: jspb.BinaryReader): Tensor;
}

export namespace Tensor {
  export type AsObject = {
    dtype: DtypeMap[keyof DtypeMap],
    shapeList: Array<number>,
    data: Uint8Array | string,
  }
}

export interface DtypeMap {
  DT_INVALID: 0;
  DT_FLOAT32: 1;
  DT_FLOAT64: 2;
  DT_FLOAT16: 3;
  DT_BFLOAT16: 4;
  DT_UINT8: 8;
  DT_INT8: 9;
  DT_INT16: 10;
  DT_INT32: 11;
  DT_INT64: 12;
  DT_BOOL: 13;
}

export const Dtype: DtypeMap;

